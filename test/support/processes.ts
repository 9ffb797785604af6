import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { constants } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { onCleanUp } from './cleanup.ts';
import type { ServerUser } from './server-user.ts';

export interface ProcessOptions {
  readonly cwd?: string;
  /** The whole environment; by default ours. */
  readonly env?: NodeJS.ProcessEnv;
  /** Run as this user (we have to be root). */
  readonly user?: ServerUser | undefined;
  readonly input?: string;
}

/** How a process ended: by a code, or by a signal (then the code is 128 + its number, as a shell says it). */
export interface Ending {
  readonly code: number;
  readonly signal: NodeJS.Signals | null;
}

/** A child that is ended with the test file that started it, at the latest. */
export interface Process {
  readonly pid: number;
  readonly ended: Promise<Ending>;
  isRunning(): boolean;
  /** The last of what it wrote, standard output and error together, at most 256 KiB. */
  output(): string;
  signal(name: NodeJS.Signals): void;
  /** Sends `name`, waits, and ends it with SIGKILL when it does not end within `graceMs`. */
  stop(name?: NodeJS.Signals, graceMs?: number): Promise<Ending>;
  kill9(): Promise<Ending>;
}

const KEPT_OUTPUT_BYTES = 256 * 1024;
// A child dies with us, even when we are killed: util-linux asks the kernel for that.
const SETPRIV = ['/usr/bin/setpriv', '/bin/setpriv'].find((path) => existsSync(path));

/** Starts a program that goes on while the tests run. */
export function startProcess(
  command: string,
  args: readonly string[],
  options: ProcessOptions = {},
): Process {
  const child = spawnAs(command, args, options);
  const { pid } = child;
  if (pid === undefined) throw new Error(`${command} can't be started`);

  let output = '';
  const keep = (chunk: Buffer): void => {
    output = (output + chunk.toString()).slice(-KEPT_OUTPUT_BYTES);
  };
  child.stdout?.on('data', keep);
  child.stderr?.on('data', keep);
  if (options.input !== undefined) child.stdin?.end(options.input);

  const ended = endingOf(child);
  const isRunning = (): boolean => child.exitCode === null && child.signalCode === null;
  const signal = (name: NodeJS.Signals): void => void child.kill(name);
  const stop = async (name: NodeJS.Signals = 'SIGTERM', graceMs = 15_000): Promise<Ending> => {
    if (isRunning()) signal(name);
    const ending = await Promise.race([ended, sleep(graceMs, undefined, { ref: false })]);
    if (ending) return ending;
    signal('SIGKILL');
    return ended;
  };
  const running: Process = {
    pid,
    ended,
    isRunning,
    signal,
    stop,
    output: () => output,
    kill9: () => stop('SIGKILL'),
  };
  onCleanUp(async () => void (await stop()));
  return running;
}

/** What a program that ran to its end wrote, and how it ended. */
export interface Outcome extends Ending {
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end, whatever that is; after `timeoutMs` it is killed. */
export async function runProcess(
  command: string,
  args: readonly string[],
  { timeoutMs = 120_000, ...options }: ProcessOptions & { timeoutMs?: number } = {},
): Promise<Outcome> {
  const child = spawnAs(command, args, options);
  const written = { stdout: '', stderr: '' };
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => (written.stdout += chunk));
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => (written.stderr += chunk));
  child.stdin?.end(options.input ?? '');
  const killer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
  try {
    return { ...(await endingOf(child)), ...written };
  } finally {
    clearTimeout(killer);
  }
}

/** As `runProcess`, and throws with all it wrote unless it ended with 0. @returns standard output */
export async function runSuccessfully(
  command: string,
  args: readonly string[],
  options: ProcessOptions & { timeoutMs?: number } = {},
): Promise<string> {
  const { code, stdout, stderr } = await runProcess(command, args, options);
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${code}:\n${stderr}${stdout}`);
  return stdout;
}

function spawnAs(command: string, args: readonly string[], { cwd, env, user }: ProcessOptions): ChildProcess {
  const [program, ...rest] = SETPRIV ? underSetpriv(SETPRIV, command, args, user) : [command, ...args];
  return spawn(program ?? command, rest, {
    cwd: cwd ?? (user ? '/' : process.cwd()),
    env: user ? { ...(env ?? process.env), HOME: '/tmp', USER: user.name, LOGNAME: user.name } : env,
    stdio: 'pipe',
    ...(user && !SETPRIV ? { uid: user.uid, gid: user.gid } : {}),
  });
}

function underSetpriv(
  setpriv: string,
  command: string,
  args: readonly string[],
  user: ServerUser | undefined,
): string[] {
  const identity = user ? [`--reuid=${user.uid}`, `--regid=${user.gid}`, '--clear-groups'] : [];
  return [setpriv, '--pdeathsig', 'KILL', ...identity, command, ...args];
}

async function endingOf(child: ChildProcess): Promise<Ending> {
  return new Promise((resolve) => {
    const end = (code: number | null, signal: NodeJS.Signals | null): void =>
      resolve({ code: code ?? 128 + (signal ? constants.signals[signal] : 0), signal });
    child.once('error', () => end(127, null));
    child.once('close', end);
    // A grandchild that lives on may hold the pipes open: what comes after this is not waited for.
    child.once('exit', (code, signal) => void setTimeout(() => end(code, signal), 1000).unref());
    child.stdin?.on('error', () => {}); // it ended without reading what we had for it
  });
}

/** The processes that `pid` started and that are still there, and theirs. */
export function descendantsOf(pid: number): number[] {
  const children = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((candidate) => parentOf(candidate) === pid);
  return children.flatMap((child) => [child, ...descendantsOf(child)]);
}

function parentOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
  } catch {
    return undefined; // it ended while we looked
  }
}

/** A TCP port of 127.0.0.1 that nobody listens on at the moment. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port was given');
  return address.port;
}
