import { spawn } from 'node:child_process';
import { existsSync, readFileSync, readlinkSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { BackupError } from '../core/errors.ts';

export interface ProgramsRequest {
  readonly majorVersion: number;
  /** Where they are, when somebody has said it. */
  readonly binDirectory?: string | undefined;
  /** A data directory on this host whose server may be running: where its program is, its tools are too. */
  readonly pgdata?: string | undefined;
  readonly signal: AbortSignal;
}

const ANSWER_MS = 10_000;

/**
 * The directory of the programs of one major version: as told, that of the running server, where packages put them, or
 * on the PATH. Each is asked for its version.
 *
 * @throws BackupError `postgres-unavailable` when there is none of that version
 */
export async function findPrograms(request: ProgramsRequest): Promise<string> {
  const { majorVersion, binDirectory, pgdata } = request;
  const running = pgdata === undefined ? undefined : runningProgram(pgdata);
  const candidates =
    binDirectory === undefined
      ? [
          ...(running === undefined ? [] : [dirname(running)]),
          `/usr/lib/postgresql/${majorVersion}/bin`,
          `/usr/pgsql-${majorVersion}/bin`,
          `/opt/homebrew/opt/postgresql@${majorVersion}/bin`,
          ...(process.env['PATH'] ?? '').split(delimiter),
        ]
      : [binDirectory];
  const seen: string[] = [];
  for (const directory of new Set(candidates)) {
    if (directory === '' || !existsSync(join(directory, 'postgres'))) continue;
    const version = await versionOf(join(directory, 'postgres'), request.signal);
    if (version === majorVersion) return directory;
    seen.push(`${directory} has ${version ?? 'one that does not answer'}`);
  }
  throw new BackupError(
    'postgres-unavailable',
    `there is no PostgreSQL ${majorVersion} on this host${seen.length > 0 ? ` (${seen.slice(0, 5).join('; ')})` : ''}`,
    { hint: 'install it, or say where it is: WALKEEP_POSTGRES_BIN, or --postgres-bin DIRECTORY' },
  );
}

/** The program of the server that runs on a data directory, where the system tells. */
function runningProgram(pgdata: string): string | undefined {
  try {
    const pid = Number(readFileSync(join(pgdata, 'postmaster.pid'), 'utf8').split('\n')[0]);
    return Number.isInteger(pid) && pid > 0 ? readlinkSync(`/proc/${pid}/exe`) : undefined;
  } catch {
    return undefined;
  }
}

async function versionOf(program: string, signal: AbortSignal): Promise<number | undefined> {
  const text = await new Promise<string>((resolve) => {
    let output = '';
    const child = spawn(program, ['--version'], {
      stdio: ['ignore', 'pipe', 'ignore'],
      // not ours: it may hold keys
      env: { PATH: process.env['PATH'], LD_LIBRARY_PATH: process.env['LD_LIBRARY_PATH'], LC_ALL: 'C' },
      signal: AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)]),
    });
    child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString('utf8').slice(0, 1000)));
    child.once('error', () => resolve(''));
    child.once('close', () => resolve(output));
  });
  signal.throwIfAborted();
  const match = / (\d+)(?:\.|devel|beta|rc|\s|$)/.exec(text);
  return match ? Number(match[1]) : undefined;
}
