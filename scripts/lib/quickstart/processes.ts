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
  rmSync,
  writeFileSync,
  existsSync,
} from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** What marks every process of ours, and its children, in its environment. */
const MARK = 'WALKEEP_QUICKSTART';

export interface Service {
  readonly name: string;
  readonly pid: number;
}

/** How each kind of service is asked to end, and the order: who needs the others goes first. */
const STOPPING: readonly { readonly name: string; readonly signal: NodeJS.Signals }[] = [
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

  /** Starts a shell line in a session of its own, which outlives us; all it writes goes to `log`. */
  start(name: string, line: string, log: string, environment: NodeJS.ProcessEnv): Service {
    const out = openSync(log, 'a', 0o600);
    // exec: the process is the program itself, with no shell between that a signal would stop at.
    const child = spawn('/bin/sh', ['-c', `exec ${line}`], {
      cwd: this.#scratch,
      env: { ...environment, [MARK]: this.#scratch },
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
      return recorded && isOurs(recorded) ? [{ name, pid: recorded.pid }] : [];
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
    const stopped: Service[] = [];
    for (const { name, signal } of STOPPING) {
      const recorded = this.#recorded(name);
      if (recorded === undefined) continue;
      if (isOurs(recorded)) {
        await end(recorded, signal);
        stopped.push({ name, pid: recorded.pid });
      }
      for (const pid of orphansOf(recorded.pid, this.#scratch)) kill(pid, 'SIGKILL');
      this.forget(name);
    }
    return stopped;
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

/** Processes of the session that `leader` began, if they carry our mark: its number may be another's by now. */
function orphansOf(leader: number, scratch: string): number[] {
  return processes().filter(
    (pid) => pid !== leader && statOf(pid)?.session === leader && carriesMark(pid, scratch),
  );
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

function carriesMark(pid: number, scratch: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(`${MARK}=${scratch}`);
  } catch {
    return false; // not ours to look at, so not ours
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
function statOf(pid: number): { state: string; parent: number; session: number; began: number } | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return {
      state: fields[0] ?? '',
      parent: Number(fields[1]),
      session: Number(fields[3]),
      began: Number(fields[19]),
    };
  } catch {
    return undefined;
  }
}
