import { readdirSync, readFileSync } from 'node:fs';
import { type Process, startProcess, type ProcessOptions } from './processes.ts';

/** What a command took, all its processes together. */
export interface Measured {
  readonly wallSeconds: number;
  /** User and system, of the command and of the servers that worked for it. */
  readonly cpuSeconds: number;
  /** The most of resident memory that its processes had at one moment, shared pages counted once. */
  readonly peakMiB: number;
  /** As the kernel keeps it: the most that any one of its processes ever had resident. Nothing is missed between looks. */
  readonly peakProcessMiB: number;
  readonly output: string;
}

export interface MeasureOptions extends ProcessOptions {
  /** Processes whose CPU counts too: PostgreSQL, the object store. */
  readonly servers?: readonly number[];
  readonly timeoutMs?: number;
}

/** What `scripts/walkeep` sets for the memory of a process that others start. */
export function starterEnvironment(): Record<string, string> {
  const starter = readFileSync(new URL('../../scripts/walkeep', import.meta.url), 'utf8');
  const settings = [...starter.matchAll(/(MALLOC_\w+)="\$\{\1-(\d+)\}"/g)];
  return Object.fromEntries(settings.map(([, name = '', value = '']) => [name, value]));
}

const LOOK_EVERY_MS = 100;

/**
 * Runs a command to its end and measures it. One at a time in a process: CPU is what all that ended in between used.
 *
 * @throws with all that it wrote unless it ended with 0
 */
export async function measured(
  command: string,
  args: readonly string[],
  { servers = [], timeoutMs = 600_000, ...options }: MeasureOptions = {},
): Promise<Measured> {
  const serversBefore = sum(servers.map(cpuOfTree));
  const before = cpuOfEnded();
  const began = performance.now();
  const running = startProcess(command, args, options);
  const memory = watchMemory(running);
  const timer = setTimeout(() => running.signal('SIGKILL'), timeoutMs);
  const { code } = await running.ended;
  clearTimeout(timer);
  const wallSeconds = (performance.now() - began) / 1000;
  const peaks = memory.end();
  if (code !== 0) throw new Error(`${command} ended with ${code}:\n${running.output()}`);
  const cpuSeconds = cpuOfEnded() - before + sum(servers.map(cpuOfTree)) - serversBefore;
  return { wallSeconds, cpuSeconds, ...peaks, output: running.output() };
}

function watchMemory({ pid }: Process) {
  let peakMiB = 0;
  let peakProcessMiB = 0;
  const look = () => {
    const pids = treeOf(pid);
    peakMiB = Math.max(peakMiB, sum(pids.map((one) => kilobytes(`/proc/${one}/smaps_rollup`, 'Pss'))) / 1024);
    for (const one of pids) {
      peakProcessMiB = Math.max(peakProcessMiB, kilobytes(`/proc/${one}/status`, 'VmHWM') / 1024);
    }
  };
  const timer = setInterval(look, LOOK_EVERY_MS);
  return {
    end() {
      clearInterval(timer);
      return { peakMiB, peakProcessMiB };
    },
  };
}

/** `pid` and all below it. */
function treeOf(pid: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const parent = Number(statOf(Number(name))?.[1]);
    children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
  }
  const below = (one: number): number[] => [one, ...(children.get(one) ?? []).flatMap(below)];
  return below(pid);
}

/** From the state on, which is the first: `proc_pid_stat(5)` counts it as the third. */
function statOf(pid: number | 'self'): string[] | undefined {
  const stat = read(`/proc/${pid}/stat`);
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
}

function kilobytes(path: string, field: string): number {
  return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(read(path) ?? '')?.[1] ?? 0);
}

/** A process may end at any moment. */
function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

/** What Linux counts CPU in, whatever the kernel's own tick is. */
const TICKS_A_SECOND = 100;

/** Of the children of this process that have ended, and theirs. */
const cpuOfEnded = () => ticks(statOf('self'), 13, 14);

/** Of a server: of itself, of what it runs now, and of what it ran. */
const cpuOfTree = (pid: number) => sum(treeOf(pid).map((one) => ticks(statOf(one), 11, 12, 13, 14)));

const ticks = (stat: string[] | undefined, ...places: number[]) =>
  sum(places.map((place) => Number(stat?.[place] ?? 0))) / TICKS_A_SECOND;

const sum = (numbers: readonly number[]) => numbers.reduce((all, one) => all + one, 0);
