import { spawn } from 'node:child_process';
import {
  closeSync,
  constants,
  existsSync,
  fchownSync,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
} from 'node:fs';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BackupError, messageOf } from '../core/errors.ts';
import { formatLsn } from '../core/lsn.ts';
import { readControlData } from '../postgres/control-data.ts';

export interface StartRequest {
  readonly pgdata: string;
  readonly majorVersion: number;
  /** Where `pg_ctl` is; found by the version otherwise. */
  readonly binDirectory?: string | undefined;
  /** Milliseconds until it is given up; the server is left running. */
  readonly timeoutMs?: number | undefined;
}

/** Plain JSON. */
export interface RecoveryOutcome {
  /** `paused`: at the target, read-only; `following`: a standby that replays what comes. */
  readonly state: 'promoted' | 'paused' | 'shut-down' | 'following';
  /** The position at which the new timeline begins, which is where the recovery ended. */
  readonly reachedLsn?: string;
  readonly timeline?: number;
  /** In PostgreSQL's words: why it ended there. */
  readonly reason?: string;
  /** When the last transaction that was replayed ended, in PostgreSQL's words. */
  readonly lastTransaction?: string;
  readonly log: string;
}

/** The server's own words while it recovers; beside its configured log, in the data directory. */
const LOG = 'walkeep_recovery.log';
const DEFAULT_TIMEOUT_MS = 24 * 3600 * 1000;
const POLL_MS = 200;
const LOG_TAIL_BYTES = 256 * 1024;

/**
 * Starts PostgreSQL on a restored directory, as the directory's owner, and waits until its recovery has come to an end.
 * It goes on running.
 *
 * @throws BackupError `recovery-failed` saying how far it came (C4), `postgres-unavailable` when there is no PostgreSQL
 *   of that version here, `deadline-exceeded`
 */
export async function startRecovery(
  request: StartRequest,
  { signal, onProgress = () => {} }: { signal: AbortSignal; onProgress?: (text: string) => void },
): Promise<RecoveryOutcome> {
  const { pgdata } = request;
  const log = join(pgdata, LOG);
  const isStandby = existsSync(join(pgdata, 'standby.signal'));
  const server = await startServer(request, log);
  const deadline = Date.now() + (request.timeoutMs ?? DEFAULT_TIMEOUT_MS);
  let seen = '';
  for (;;) {
    signal.throwIfAborted();
    const words = tail(log);
    const restored = [...words.matchAll(/restored log file "([^"]+)" from archive/g)].at(-1)?.[1] ?? '';
    if (restored !== seen) onProgress((seen = restored));
    if (isStandby && /ready to accept read-only connections/.test(words)) return { state: 'following', log };
    if (/pausing at the end of recovery|recovery has paused/.test(words))
      return { state: 'paused', ...whatIsKnown(words), log };
    if (server.hasEnded()) return ended(pgdata, tail(log), log);
    if (!isStandby && (await isInProduction(pgdata)))
      return { state: 'promoted', ...whatIsKnown(tail(log)), ...newTimeline(pgdata), log };
    if (Date.now() > deadline) {
      throw new BackupError(
        'deadline-exceeded',
        `the recovery in ${pgdata} goes on (${seen || 'nothing restored yet'}); it was not waited for any longer`,
      );
    }
    await sleep(POLL_MS, undefined, { signal });
  }
}

async function ended(pgdata: string, words: string, log: string): Promise<RecoveryOutcome> {
  if (/shutdown at recovery target/.test(words)) return { state: 'shut-down', ...whatIsKnown(words), log };
  const complaint = [...words.matchAll(/(?:FATAL|PANIC):\s+(.*)/g)]
    .map((match) => match[1] ?? '')
    .find((text) => !/terminating|startup process/.test(text));
  const { lastTransaction } = whatIsKnown(words);
  const control = await readControlData(pgdata).catch(() => undefined);
  const far =
    control && control.minRecoveryLsn > 0n
      ? `it came at least to LSN ${formatLsn(control.minRecoveryLsn)} on timeline ${control.minRecoveryTimeline}`
      : 'it had hardly begun';
  throw new BackupError(
    'recovery-failed',
    `PostgreSQL stopped in recovery: ${complaint ?? 'without a reason in its log'}; ${far}${lastTransaction ? `, the last transaction ended ${lastTransaction}` : ''}`,
    {
      hint: `${log} has the whole story; nothing was promoted. After the cause is removed, start PostgreSQL again: it goes on`,
    },
  );
}

function whatIsKnown(words: string): { lastTransaction?: string } {
  const time = [...words.matchAll(/last completed transaction was at log time (.*)/g)].at(-1)?.[1];
  return time === undefined ? {} : { lastTransaction: time.trim() };
}

/** What PostgreSQL wrote into the history of the timeline it began: where, and why there. */
function newTimeline(pgdata: string): { timeline?: number; reachedLsn?: string; reason?: string } {
  const directory = join(pgdata, 'pg_wal');
  const newest = readdirSync(directory)
    .filter((name) => /^[0-9A-F]{8}\.history$/.test(name))
    .toSorted()
    .at(-1);
  if (newest === undefined) return {};
  const line = readFileSync(join(directory, newest), 'utf8').trim().split('\n').at(-1) ?? '';
  const match = /^\d+\s+([0-9A-F]+\/[0-9A-F]+)\s+(.*)$/.exec(line);
  return {
    timeline: Number.parseInt(newest.slice(0, 8), 16),
    ...(match ? { reachedLsn: match[1] as string, reason: match[2] as string } : {}),
  };
}

async function isInProduction(pgdata: string): Promise<boolean> {
  if (existsSync(join(pgdata, 'recovery.signal'))) return false;
  const control = await readControlData(pgdata).catch(() => undefined);
  return control?.state === 'in production';
}

function tail(path: string): string {
  if (!existsSync(path)) return '';
  const fd = openSync(path, 'r');
  try {
    const { size } = fstatSync(fd);
    const bytes = Buffer.alloc(Math.min(size, LOG_TAIL_BYTES));
    const read = readSync(fd, bytes, 0, bytes.length, size - bytes.length);
    return bytes.subarray(0, read).toString('utf8');
  } finally {
    closeSync(fd);
  }
}

/** The `bin` directory of a major version: where packages put it, or on the PATH; PostgreSQL itself refuses another version. */
function findBin({ majorVersion, binDirectory }: StartRequest): string {
  const usual = [
    `/usr/lib/postgresql/${majorVersion}/bin`,
    `/usr/pgsql-${majorVersion}/bin`,
    `/opt/homebrew/opt/postgresql@${majorVersion}/bin`,
  ];
  const candidates =
    binDirectory === undefined ? [...usual, ...(process.env['PATH'] ?? '').split(delimiter)] : [binDirectory];
  const found = candidates.find((directory) => directory !== '' && existsSync(join(directory, 'postgres')));
  if (found !== undefined) return found;
  throw new BackupError(
    'postgres-unavailable',
    `no program of PostgreSQL ${majorVersion} in ${candidates.join(', ')}`,
    {
      hint: 'say where it is: --postgres-bin DIRECTORY',
    },
  );
}

/**
 * Starts PostgreSQL as who owns its data directory; root may become that user, nobody else can. It outlives this
 * process. Its own log settings are set aside for this run, so that its words can be read here.
 */
async function startServer(request: StartRequest, log: string): Promise<{ hasEnded(): boolean }> {
  const { pgdata } = request;
  const { uid, gid } = statSync(pgdata);
  const isRoot = process.geteuid?.() === 0;
  const program = join(findBin(request), 'postgres');
  const words = openSync(
    log,
    constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW,
    0o600,
  );
  try {
    if (isRoot) fchownSync(words, uid, gid);
    const settings = ['logging_collector=off', 'log_destination=stderr', 'lc_messages=C'].flatMap(
      (setting) => ['-c', setting],
    );
    const child = spawn(program, ['-D', pgdata, ...settings], {
      cwd: pgdata,
      detached: true,
      stdio: ['ignore', words, words],
      ...(isRoot ? { uid, gid } : {}),
    });
    await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject));
    child.unref();
    return { hasEnded: () => child.exitCode !== null || child.signalCode !== null };
  } catch (error) {
    throw new BackupError('postgres-unavailable', `can't run ${program}: ${messageOf(error)}`, {
      cause: error,
    });
  } finally {
    closeSync(words);
  }
}
