import { spawn } from 'node:child_process';
import { closeSync, constants, fchownSync, fstatSync, openSync, readSync } from 'node:fs';
import { readFile, readdir } from 'node:fs/promises';
import { setPriority } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BackupError, messageOf } from '../core/errors.ts';
import type { Setting } from '../postgres/recovery-settings.ts';
import {
  judgeRecoveryFailure,
  readRecoveryStory,
  type RecoveryFailure,
  type RecoveryStory,
} from '../postgres/recovery-log.ts';
import { processesIn } from './verification-processes.ts';
import type { Scratch } from './verification-scratch.ts';

export interface ScratchServerRequest {
  readonly scratch: Scratch;
  /** The directory of PostgreSQL's programs. */
  readonly programs: string;
  readonly settings: readonly Setting[];
  /** How much it gives way to others, 0 to 19. */
  readonly nice: number;
}

/** A server on a scratch copy. Whoever starts it ends it. */
export interface ScratchServer {
  readonly pid: number;
  hasEnded(): boolean;
  /** All it has said, the last 32 MiB. */
  log(): string;
  /**
   * `clean`: with a checkpoint, so that its files are whole; `at once`: nothing of it is wanted any more. When it does
   * not end in time it is killed.
   */
  stop(how: 'clean' | 'at once'): Promise<void>;
}

/** The recovery of a copy came to nothing, and it is known whom that blames. */
export class RecoveryEnded extends Error {
  override readonly name = 'RecoveryEnded';
  readonly failure: RecoveryFailure;
  constructor(failure: RecoveryFailure) {
    super(failure.message);
    this.failure = failure;
  }
}

const LOG_BYTES = 32 * 1024 * 1024;
const TAIL_BYTES = 64 * 1024;
const POLL_MS = 100;
const CLEAN_STOP_MS = 120_000;
const STOP_MS = 15_000;

/**
 * Starts PostgreSQL on a restored copy, as who owns it; root becomes that user. Its words go to the scratch directory.
 *
 * @throws BackupError `postgres-unavailable` when the program can't be run
 */
export async function startScratchServer(request: ScratchServerRequest): Promise<ScratchServer> {
  const { scratch, programs, settings, nice } = request;
  const program = join(programs, 'postgres');
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW;
  const words = openSync(scratch.log, flags, 0o600);
  try {
    if (scratch.owner) fchownSync(words, scratch.owner.uid, scratch.owner.gid);
    const child = spawn(
      program,
      ['-D', scratch.data, ...settings.flatMap(([name, value]) => ['-c', `${name}=${value}`])],
      {
        cwd: scratch.data,
        detached: true,
        stdio: ['ignore', words, words],
        env: serverEnvironment(),
        ...scratch.owner,
      },
    );
    await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject));
    // Lets go of this process's loop: a worker that ends does not wait for it, it ends it.
    child.unref();
    const pid = child.pid as number;
    giveWay(pid, nice);
    const hasEnded = () => child.exitCode !== null || child.signalCode !== null;
    return {
      pid,
      hasEnded,
      log: () => readEnd(scratch.log, LOG_BYTES),
      stop: (how) => stop({ pid, hasEnded, data: scratch.data }, how),
    };
  } catch (error) {
    throw new BackupError('postgres-unavailable', `can't run ${program}: ${messageOf(error)}`, {
      cause: error,
    });
  } finally {
    closeSync(words);
  }
}

/**
 * What `restore_command` needs of this process's environment (where its keys are, where Temporal is not asked), without
 * what would lead PostgreSQL or its clients elsewhere, and without the keys to Temporal, which it is not to see (S1).
 */
function serverEnvironment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(
    ([name]) =>
      !/^(PG[A-Z]+|LC_[A-Z]+|LANG|LANGUAGE|WALKEEP_FAILPOINT|TEMPORAL_.+|WALKEEP_PAYLOAD_KEY.*)$/.test(name),
  );
  return { ...Object.fromEntries(kept), LC_ALL: 'C', TZ: 'UTC' };
}

function giveWay(pid: number, nice: number): void {
  try {
    setPriority(pid, nice);
  } catch {
    // it has ended, or this system has no priorities: neither is a reason not to verify
  }
}

export interface WaitOptions {
  readonly signal: AbortSignal;
  /** Of the restored segments, by name. */
  readonly onProgress: (segments: number) => void;
  /** Called every second; what it throws ends the waiting. */
  readonly watch: () => void;
}

/**
 * Waits until recovery has ended and the server lets sessions in.
 *
 * @throws RecoveryEnded when it ended instead
 */
export async function waitUntilRecovered(
  server: ScratchServer,
  scratch: Scratch,
  { signal, onProgress, watch }: WaitOptions,
): Promise<RecoveryStory> {
  let seen = 0;
  for (let round = 0; ; round += 1) {
    signal.throwIfAborted();
    // A look at the end is enough while it goes on; lines that were passed over are counted at the end.
    const end = readEnd(scratch.log, TAIL_BYTES);
    if (/database system is ready to accept connections/.test(end)) return readRecoveryStory(server.log());
    if (server.hasEnded()) throw new RecoveryEnded(judgeRecoveryFailure(server.log()));
    if (round % 10 === 9) {
      watch();
      const { segments } = readRecoveryStory(server.log());
      if (segments !== seen) onProgress((seen = segments));
    }
    await sleep(POLL_MS, undefined, { signal });
  }
}

async function stop(
  server: { pid: number; data: string; hasEnded(): boolean },
  how: 'clean' | 'at once',
): Promise<void> {
  const steps: readonly [NodeJS.Signals, number][] =
    how === 'clean'
      ? [
          ['SIGINT', CLEAN_STOP_MS],
          ['SIGQUIT', STOP_MS],
          ['SIGKILL', STOP_MS],
        ]
      : [
          ['SIGQUIT', STOP_MS],
          ['SIGKILL', STOP_MS],
        ];
  for (const [name, withinMs] of steps) {
    if (!server.hasEnded()) kill(server.pid, name);
    for (const until = Date.now() + withinMs; Date.now() < until; await sleep(50)) {
      if (server.hasEnded() && (processesIn(server.data) ?? []).length === 0) return;
    }
    // The postmaster is gone and a child is not: a restore_command that hangs, say.
    if (server.hasEnded() && name === 'SIGQUIT')
      for (const pid of processesIn(server.data) ?? []) kill(pid, 'SIGKILL');
  }
  throw new BackupError(
    'postgres-unavailable',
    `the server in ${server.data} (process ${server.pid}) does not end`,
  );
}

function kill(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // it has ended meanwhile
  }
}

function readEnd(path: string, maxBytes: number): string {
  const fd = openSync(path, 'r');
  try {
    const { size } = fstatSync(fd);
    const bytes = Buffer.alloc(Math.min(size, maxBytes));
    const read = readSync(fd, bytes, 0, bytes.length, size - bytes.length);
    return bytes.subarray(0, read).toString('utf8');
  } finally {
    closeSync(fd);
  }
}

/** The timeline that the copy began, where it left its own, and that one: from the history it wrote. */
export async function readBranch(
  data: string,
): Promise<{ timeline: number; parent: number; reachedLsn: string } | undefined> {
  const names = (await readdir(join(data, 'pg_wal'))).filter((name) => /^[0-9A-F]{8}\.history$/.test(name));
  const newest = names.toSorted().at(-1);
  if (newest === undefined) return undefined;
  const line = (await readFile(join(data, 'pg_wal', newest), 'utf8')).trim().split('\n').at(-1) ?? '';
  const match = /^(\d+)\s+([0-9A-F]+\/[0-9A-F]+)/.exec(line);
  if (!match) return undefined;
  return {
    timeline: Number.parseInt(newest.slice(0, 8), 16),
    parent: Number(match[1]),
    reachedLsn: match[2] as string,
  };
}

/**
 * A value that the copy's own configuration files give, before anything of it counts.
 *
 * @returns `undefined` when PostgreSQL can't make sense of these files here
 */
export async function readConfigured(
  programs: string,
  scratch: Scratch,
  name: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    let output = '';
    const child = spawn(join(programs, 'postgres'), ['-D', scratch.data, '-C', name], {
      cwd: scratch.data,
      stdio: ['ignore', 'pipe', 'ignore'],
      env: serverEnvironment(),
      signal: AbortSignal.any([signal, AbortSignal.timeout(30_000)]),
      ...scratch.owner,
    });
    child.stdout.on('data', (chunk: Buffer) => (output = (output + chunk.toString('utf8')).slice(0, 16_384)));
    child.once('error', () => (signal.aborted ? reject(signal.reason) : resolve(undefined)));
    child.once('close', (code) => resolve(code === 0 ? output.trim() : undefined));
  });
}
