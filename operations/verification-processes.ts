import { readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BackupError } from '../core/errors.ts';

/** When a process started, in ticks since the boot; empty where the system does not say. */
export function processStart(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // the name in parentheses may hold anything
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  } catch {
    return '';
  }
}

/** Whether that very process is there; a later one with its number is another. */
export function isRunning(pid: number, start: string): boolean {
  if (!isThere(pid)) return false;
  return start === '' || processStart(pid) === start;
}

const QUIT_MS = 10_000;
const KILL_MS = 10_000;

/**
 * Ends the server that runs on a scratch data directory, if one does: immediately, since nothing of it is kept. It is
 * known by its working directory, never by a number in a file alone.
 *
 * @returns whether there was one
 * @throws BackupError `verification-impossible` when it can't be ended, or is not known to be ours
 */
export async function stopForeignServer(data: string): Promise<boolean> {
  const pid = postmasterPid(data);
  const running = processesIn(data);
  if (running === undefined) {
    if (pid === undefined || !isThere(pid)) return false;
    throw new BackupError(
      'verification-impossible',
      `process ${pid} may be the server in ${data}; end it by hand`,
    );
  }
  if (running.length === 0) return false;
  if (pid !== undefined && running.includes(pid)) signal(pid, 'SIGQUIT');
  else for (const each of running) signal(each, 'SIGQUIT');
  if (await areGone(data, QUIT_MS)) return true;
  for (const each of processesIn(data) ?? []) signal(each, 'SIGKILL');
  if (await areGone(data, KILL_MS)) return true;
  throw new BackupError('verification-impossible', `the server in ${data} does not end`);
}

/** As PostgreSQL's own file says. */
function postmasterPid(data: string): number | undefined {
  try {
    const pid = Number(readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n')[0]);
    return Number.isInteger(pid) && pid > 1 ? pid : undefined;
  } catch {
    return undefined;
  }
}

/** The processes whose working directory it is: the server and its children. @returns `undefined` where nobody can tell */
export function processesIn(data: string): number[] | undefined {
  let real: string;
  try {
    real = realpathSync(data);
  } catch {
    return [];
  }
  let names: string[];
  try {
    names = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  } catch {
    return undefined;
  }
  return names.map(Number).filter((pid) => {
    try {
      return pid !== process.pid && readlinkSync(`/proc/${pid}/cwd`) === real;
    } catch {
      // it ended, or it is another user's
      return false;
    }
  });
}

async function areGone(data: string, withinMs: number): Promise<boolean> {
  for (const until = Date.now() + withinMs; Date.now() < until;) {
    if ((processesIn(data) ?? []).length === 0) return true;
    await sleep(50);
  }
  return false;
}

function isThere(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // it has ended meanwhile
  }
}
