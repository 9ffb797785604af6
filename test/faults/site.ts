import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startCanary, type Canary } from '../support/canary.ts';
import { createLedger, type Ledger } from '../support/oracles.ts';
import { freePort, startProcess, type Process } from '../support/processes.ts';
import { serverUser } from '../support/server-user.ts';
import type { TemporalServer } from '../support/temporal.ts';
import { repositoryRoot } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { startSite, type Machine, type Site, type SiteOptions } from '../support/walkeep.ts';

const PROGRAM = join(repositoryRoot, 'scripts/walkeep');

/** Seconds: a dead worker is noticed at once, and attempts follow each other quickly. */
const PACE = {
  heartbeat: 4,
  backoff: 1,
  backoffMaximum: 2,
  walDeadline: 60,
  attempts: 3,
  archivingReport: 30,
};

/** A site whose workers are killed and stopped, and whose database keeps count of all that was promised. */
export interface FaultSite extends Site {
  readonly ledger: Ledger;
  readonly canary: Canary;
  /** Root of the directory repository; empty for a bucket. */
  readonly directory: string;
}

/** Everything in this test file is paced quickly. */
export function paceQuickly(): void {
  process.env['WALKEEP_PACE'] = JSON.stringify(PACE);
}

/** A site with a directory repository, a ledger around its archive_command, and a canary. */
export async function startFaultSite(options: SiteOptions): Promise<FaultSite> {
  paceQuickly();
  const site = await startSite(options);
  const ledger = createLedger();
  const [row] = await site.postgres.psql<{ archive_command: string }>('SHOW archive_command');
  site.postgres.configure({ archive_command: ledger.around(row?.archive_command ?? '') });
  await site.postgres.reload();
  const canary = await startCanary(site.postgres);
  const { destinationPath } = site.barmanObjectStore;
  const directory =
    typeof destinationPath === 'string' && destinationPath.startsWith('file:')
      ? fileURLToPath(destinationPath)
      : '';
  return { ...site, ledger, canary, directory };
}

export interface FaultyWorkerOptions {
  readonly machine: Machine;
  readonly temporal: TemporalServer;
  /** Of libpq. */
  readonly postgres?: Readonly<Record<string, string>>;
  readonly cluster: string;
  readonly instance: string;
  readonly pgdata: string;
  /** Such as WALKEEP_FAILPOINT. */
  readonly environment?: NodeJS.ProcessEnv;
}

export interface FaultyWorker {
  readonly process: Process;
  waitUntilReady(): Promise<void>;
}

/** A worker with an environment of its own, and no promise to live. */
export async function startFaultyWorker(options: FaultyWorkerOptions): Promise<FaultyWorker> {
  const { machine, temporal, cluster, instance, pgdata } = options;
  const address = `127.0.0.1:${await freePort()}`;
  const env = {
    ...process.env,
    ...(options.postgres ?? { PGHOST: '/nowhere' }),
    ...temporal.environment,
    WALKEEP_STATE: machine.state,
    ...options.environment,
  };
  const args = ['worker', '--cluster', cluster, '--instance', instance, '--pgdata', pgdata];
  const child = startProcess(PROGRAM, [...args, '--metrics', address, '--grace', '2'], {
    user: serverUser,
    env,
  });
  return {
    process: child,
    async waitUntilReady() {
      const answers = async () => {
        if (!child.isRunning()) throw new Error(`the worker ended:\n${child.output().slice(-4000)}`);
        return (await fetch(`http://${address}/readyz`)).ok;
      };
      await until('the worker to be ready', answers, { timeoutMs: 90_000, everyMs: 200 }).catch(
        (error: unknown) => {
          throw new Error(`${String(error)}:\n${child.output().slice(-4000)}`, { cause: error });
        },
      );
    },
  };
}

/** What a worker tells Prometheus at this moment. */
export async function metricsOf({ pid }: Process): Promise<string> {
  const args = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  const address = args[args.indexOf('--metrics') + 1];
  return (await fetch(`http://${address}/metrics`)).text();
}

/** Waits until a process has stopped itself (SIGSTOP at a failpoint). */
export async function untilStopped({ pid }: Process, timeoutMs = 60_000): Promise<void> {
  const isStopped = () => {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).startsWith('T');
  };
  await until('the process to be stopped', isStopped, { timeoutMs });
}

/** Wakes a stopped process, again and again: each of its threads passes the failpoint for itself. */
export function keepAwake(child: Process): void {
  const timer = setInterval(() => child.signal('SIGCONT'), 100);
  void child.ended.then(() => clearInterval(timer));
}
