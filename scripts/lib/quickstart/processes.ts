/**
 * The processes that a quickstart leaves running, each in a file that names its pid and when that process began, so
 * that a later `--stop` ends exactly these, also when the numbers have been given to others.
 */
import { spawn } from 'node:child_process';
import {
  mkdirSync,
  openSync,
  closeSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
  existsSync,
} from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** What marks every process that a quickstart starts, and its children, in their environment: its folder. */
export const MARK = 'WALKEEP_QUICKSTART';

export interface Service {
  readonly name: string;
  readonly pid: number;
}

/** How each kind of service is asked to end, and the order: who needs the others goes first. */
const STOPPING: readonly { readonly name: string; readonly signal: NodeJS.Signals }[] = [
  { name: 'quickstart', signal: 'SIGTERM' }, // a script that is at work: it stops what it started, and ends
  { name: 'worker', signal: 'SIGTERM' },
  { name: 'postgres', signal: 'SIGINT' }, // a fast shutdown
  { name: 's3', signal: 'SIGTERM' },
  { name: 'temporal', signal: 'SIGTERM' },
];

const GRACE_MS = 20_000;

/** The pid files of one scratch folder. */
export class Services {
  readonly #scratch: string;

  constructor(scratch: string) {
    this.#scratch = scratch;
  }

  /**
   * Starts a program by a shell line in a session of its own, which outlives us; all it writes goes to `log`.
   *
   * @param line ends with `exec PROGRAM …`: the process is the program, with no shell that a signal would stop at
   */
  start(name: string, line: string, log: string, environment: NodeJS.ProcessEnv): Service {
    const out = openSync(log, 'a', 0o600);
    const child = spawn('/bin/sh', ['-c', line], {
      cwd: this.#scratch,
      env: environment,
      stdio: ['ignore', out, out],
      detached: true,
    });
    closeSync(out);
    child.unref();
    if (child.pid === undefined) throw new Error(`/bin/sh can't be started`);
    return this.record(name, child.pid);
  }

  /** Notes a process that somebody else started for us. */
  record(name: string, pid: number): Service {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    writeFileSync(this.#file(name), `${pid} ${beganAt(pid) ?? 0}\n`);
    return { name, pid };
  }

  /** A process that ended because we wanted it to. */
  forget(name: string): void {
    rmSync(this.#file(name), { force: true });
  }

  isRunning({ name, pid }: Service): boolean {
    return this.#recorded(name)?.pid === pid && isOurs(this.#recorded(name));
  }

  /** The recorded processes that are alive. */
  running(): Service[] {
    return STOPPING.flatMap(({ name }) => {
      const recorded = this.#recorded(name);
      return recorded && recorded.pid !== process.pid && isOurs(recorded)
        ? [{ name, pid: recorded.pid }]
        : [];
    });
  }

  /** The names of those that should be alive and are not. */
  ended(): string[] {
    return STOPPING.map(({ name }) => name).filter(
      (name) => this.#recorded(name) && !isOurs(this.#recorded(name)),
    );
  }

  /** Ends what the files name, if it is still the same process, and what it left behind. @returns what was ended */
  async stopAll(): Promise<Service[]> {
    this.#adoptPostgres();
    const stopped: Service[] = [];
    for (const { name, signal } of STOPPING) {
      const recorded = this.#recorded(name);
      if (recorded === undefined || recorded.pid === process.pid) continue;
      if (isOurs(recorded)) {
        await end(recorded, signal);
        stopped.push({ name, pid: recorded.pid });
      }
      this.forget(name);
    }
    for (const pid of processes().filter((candidate) => this.#carriesMark(candidate))) kill(pid, 'SIGKILL');
    return stopped;
  }

  /** A server that was started a moment ago, by a command that did not come to its end. */
  #adoptPostgres(): void {
    for (const directory of ['pgdata', 'restored'].map((name) => path.join(this.#scratch, name))) {
      const pid = postmasterIn(directory);
      if (pid !== undefined && workingDirectoryOf(pid) === directory) this.record('postgres', pid);
    }
  }

  #carriesMark(pid: number): boolean {
    try {
      return readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(`${MARK}=${this.#scratch}`);
    } catch {
      return false; // not ours to look at, so not ours
    }
  }

  get #folder(): string {
    return path.join(this.#scratch, 'pids');
  }

  #file(name: string): string {
    return path.join(this.#folder, name);
  }

  #recorded(name: string): Recorded | undefined {
    if (!existsSync(this.#file(name))) return undefined;
    const [pid = Number.NaN, began = Number.NaN] = readFileSync(this.#file(name), 'utf8')
      .trim()
      .split(' ')
      .map(Number);
    return Number.isSafeInteger(pid) && pid > 1 ? { pid, began } : undefined;
  }
}

interface Recorded {
  readonly pid: number;
  /** In clock ticks since the machine started, as /proc has it. */
  readonly began: number;
}

/** Whether the recorded process is alive: the same number and the same beginning. */
function isOurs(recorded: Recorded | undefined): boolean {
  return recorded !== undefined && beganAt(recorded.pid) === recorded.began;
}

async function end(recorded: Recorded, signal: NodeJS.Signals): Promise<void> {
  kill(recorded.pid, signal);
  const deadline = Date.now() + GRACE_MS;
  while (isOurs(recorded) && Date.now() < deadline) await sleep(50);
  if (isOurs(recorded)) kill(recorded.pid, 'SIGKILL');
  while (isOurs(recorded)) await sleep(20);
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // it has just ended
  }
}

/** The processes that `pid` has started and that are alive. */
export function childrenOf(pid: number): number[] {
  return processes().filter((candidate) => statOf(candidate)?.parent === pid);
}

function processes(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** The process that `postmaster.pid` in a data directory names. */
export function postmasterIn(directory: string): number | undefined {
  try {
    return Number(readFileSync(path.join(directory, 'postmaster.pid'), 'utf8').split('\n')[0]);
  } catch {
    return undefined;
  }
}

function workingDirectoryOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    return undefined;
  }
}

export function isAlive(pid: number): boolean {
  return beganAt(pid) !== undefined;
}

/** When a process began; `undefined` when there is none, or only what is left for its parent to collect. */
function beganAt(pid: number): number | undefined {
  const stat = statOf(pid);
  return stat === undefined || stat.state === 'Z' ? undefined : stat.began;
}

/** @see proc(5), `/proc/PID/stat`: the second field is a name in parentheses, which may hold anything */
function statOf(pid: number): { state: string; parent: number; began: number } | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return {
      state: fields[0] ?? '',
      parent: Number(fields[1]),

      began: Number(fields[19]),
    };
  } catch {
    return undefined;
  }
}
