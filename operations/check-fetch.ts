import { spawn } from 'node:child_process';
import { rmSync, statSync } from 'node:fs';
import { join } from 'node:path';

const DEADLINE_MS = 60_000;
/** PostgreSQL removes what is called so in `pg_wal` when it starts. */
const PROBE = 'xlogtemp.walkeep-probe';

/**
 * Runs a restored directory's `restore_command` for one segment, as PostgreSQL will: in the data directory and as its
 * owner. What that user can't read, or reach, is found now and not in the middle of a recovery.
 *
 * @returns `undefined` when it works, otherwise what it said
 */
export async function checkFetch(
  pgdata: string,
  restoreCommand: string,
  segment: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  const { uid, gid } = statSync(pgdata);
  const line = restoreCommand.replaceAll(
    /%(.)/g,
    (_, letter: string) => ({ f: segment, p: `pg_wal/${PROBE}`, '%': '%' })[letter] ?? '',
  );
  const identity = process.geteuid?.() === 0 ? { uid, gid } : {};
  try {
    return await new Promise<string | undefined>((resolve, reject) => {
      const child = spawn('/bin/sh', ['-c', line], {
        cwd: pgdata,
        stdio: ['ignore', 'ignore', 'pipe'],
        signal: AbortSignal.any([signal, AbortSignal.timeout(DEADLINE_MS)]),
        ...identity,
      });
      let output = '';
      child.stderr.on('data', (chunk: Buffer) => (output = (output + chunk.toString('utf8')).slice(-2000)));
      child.once('error', (error) => (signal.aborted ? reject(signal.reason) : resolve(error.message)));
      child.once('close', (code) =>
        resolve(code === 0 ? undefined : output.trim().split('\n').at(-1) || `it ended with ${code}`),
      );
    });
  } finally {
    rmSync(join(pgdata, 'pg_wal', PROBE), { force: true });
  }
}
