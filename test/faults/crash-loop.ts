/**
 * A site under load whose workers, Temporal and store are struck at random, for as long as is wished; in the end nothing
 * may be lost, held, stuck or told. The same seed makes the same choices, though not at the same moments.
 */
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { FAILPOINTS } from '../../core/failpoint.ts';
import { listBackups } from '../../repository/catalogue.ts';
import { startLoad } from '../support/canary.ts';
import { archiveAll, requireCommits, requireNothingLeft } from '../support/oracles.ts';
import { runProcess, type Process } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { toolPath } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { requireContiguous } from './contiguous.ts';
import { startKeyedSite, type KeyedSite } from './keyed-site.ts';
import { requireNoSecrets } from './secrets-oracle.ts';
import { startFaultyWorker, type FaultyWorker } from './site.ts';
import { randomFrom, type Climate } from './weather.ts';

export interface CrashLoopOptions {
  readonly durationMs: number;
  readonly seed: number;
  /** Restores beside the one to the end; each backup that counts, up to this many. */
  readonly restores: number;
  readonly log?: (line: string) => void;
}

/** How often each thing was done, and what came of it. */
export type Tally = Readonly<Record<string, number>>;

const NEVER = new AbortController().signal;
const SEGMENT_MIB = 4;
const CLIMATES: readonly Climate[] = [
  {},
  { refused: 0.3 },
  { reset: 0.1 },
  { uploadDelayMs: 150 },
  { expiresAfter: 0 },
];
/** What else an operator may ask for, where this version has it. */
const OPTIONAL_COMMANDS: Readonly<Record<string, readonly string[]>> = {
  sweep: ['--yes'],
  verify: [],
  audit: [],
};
const DAMAGED = 10;

/** Takes a site through it, and throws at the first promise that was broken. */
export async function runCrashLoop(options: CrashLoopOptions): Promise<Tally> {
  const loop = new CrashLoop(options);
  await loop.begin();
  const end = Date.now() + options.durationMs;
  while (Date.now() < end) await loop.strike();
  await loop.calmDown();
  await loop.judge();
  return loop.tally();
}

class CrashLoop {
  readonly #options: CrashLoopOptions;
  readonly #random: () => number;
  readonly #counts = new Map<string, number>();
  /** Names of Backups that were asked for, as the command line said. */
  readonly #asked: string[] = [];
  readonly #outputs: string[] = [];
  #temporal!: TemporalServer;
  #client!: Client;
  #site!: KeyedSite;
  #load: Process | undefined;
  #worker: FaultyWorker | undefined;
  #commands: readonly string[] = [];
  readonly #running = new Set<Promise<void>>();
  readonly #broken: unknown[] = [];

  constructor(options: CrashLoopOptions) {
    this.#options = options;
    this.#random = randomFrom(options.seed);
  }

  tally(): Tally {
    return Object.fromEntries([...this.#counts].toSorted(([a], [b]) => (a < b ? -1 : 1)));
  }

  async begin(): Promise<void> {
    this.#temporal = await startTemporal();
    this.#client = await this.#temporal.client();
    this.#site = await startKeyedSite({
      temporal: this.#temporal,
      major: 15,
      segmentSizeMiB: SEGMENT_MIB,
      compression: { wal: 'gzip', data: 'gzip' },
      config: { checkpoint_timeout: '30s', checkpoint_completion_target: 0.2 },
    });
    await this.#site.worker.stop();
    const help = await this.#site.machine.succeed('help');
    this.#commands = Object.keys(OPTIONAL_COMMANDS).filter((name) =>
      new RegExp(`^ +${name}\\b`, 'm').test(help),
    );
    this.#load = await startLoad(this.#site.postgres, { transactionsPerSecond: 30 });
    await this.#startWorker({});
    await this.#worker?.waitUntilReady();
    // One that counts from the beginning: everything is replayed onto it.
    await this.#site.backup('soak-first');
    this.#asked.push('soak-first');
  }

  /** One thing of all that can happen, and a worker that is there again. */
  async strike(): Promise<void> {
    await sleep(500 + this.#random() * 2_500);
    const strikes: readonly (readonly [number, string, () => Promise<void>])[] = [
      [3, 'worker killed -9', async () => void (await this.#worker?.process.kill9())],
      [2, 'worker stopped and woken', () => this.#freeze()],
      [2, 'worker terminated', async () => void (await this.#worker?.process.stop('SIGTERM', 40_000))],
      [2, 'Temporal away', () => this.#outage()],
      [3, 'weather changed', () => this.#changeWeather()],
      [5, 'backup asked for', () => this.#askForBackup()],
      [2, 'WAL switched', async () => void (await this.#site.postgres.switchWal())],
      [1, 'restore', () => this.#inBackground(() => this.#restoreSomewhere())],
      ...this.#commands.map(
        (command) => [1, command, () => this.#inBackground(() => this.#run(command))] as const,
      ),
    ];
    let at = this.#random() * strikes.reduce((sum, [weight]) => sum + weight, 0);
    const chosen = strikes.find(([weight]) => (at -= weight) < 0);
    if (chosen) {
      const [, name, act] = chosen;
      this.#options.log?.(name);
      this.#count(name);
      await act();
    }
    await this.#haveWorker();
  }

  /** Everything is well again; what was begun has to end now. */
  async calmDown(): Promise<void> {
    const { weather, machine, cluster } = this.#site;
    weather.become({});
    await this.#worker?.process.stop('SIGTERM', 40_000);
    this.#keepOutput();
    await this.#startWorker({});
    await this.#worker?.waitUntilReady();
    await Promise.all(this.#running);
    if (this.#broken.length > 0) throw this.#broken[0];
    for (const name of this.#asked) {
      const handle = this.#client.workflow.getHandle(`backup/default/${name}`);
      const hasEnded = async () => (await handle.describe()).status.name !== 'RUNNING';
      await until(`the Backup ${name} to end`, hasEnded, { timeoutMs: 240_000, everyMs: 500 });
    }
    await machine.succeed('backup', cluster, '--name', 'soak-last', '--immediate-checkpoint', '--wait');
    this.#asked.push('soak-last');
  }

  /** The five oracles. */
  async judge(): Promise<void> {
    const { canary, postgres, ledger, machine } = this.#site;
    await this.#load?.stop('SIGTERM');
    const commits = await archiveAll(canary, postgres);
    // O1
    const names = await ledger.requireKept(this.#site.openRepository());
    requireContiguous(names, SEGMENT_MIB);
    this.#count('segments archived', names.length);
    this.#count('archive calls refused', ledger.refused().length);
    const wrong = ledger.refused().filter((code) => code < 1 || code > 125);
    if (wrong.length > 0) throw new Error(`A5: archive_command ended with ${wrong.join(', ')}`);
    const listed = await this.#judgeBackups();
    // O3
    await requireNothingLeft(
      {
        postgres,
        states: [machine.state],
        dataDirectories: [postgres.dataDirectory],
        expectedPids: this.#worker ? [this.#worker.process.pid] : [],
      },
      { timeoutMs: 30_000 },
    );
    // What a killed process had begun to upload is the sweep's, by its age.
    this.#count('uploads for the sweep', (await this.#site.s3.unfinishedUploads()).length);
    // O4
    this.#keepOutput();
    const histories = await requireNoSecrets([this.#site.key().secret], {
      client: this.#client,
      texts: this.#outputs,
      pids: this.#worker ? [this.#worker.process.pid] : [],
    });
    this.#count('histories read', histories);
    await this.#requireReadableByBarman(listed);
    await this.#worker?.process.stop('SIGTERM', 40_000);
    // O2
    const first = await this.#site.restore('--backup-id', 'soak-first');
    const rows = await first.psql<{ id: string }>('SELECT id FROM canary ORDER BY id');
    requireCommits(
      rows.map(({ id }) => id),
      commits,
    );
    await first.remove();
    const others = listed.filter((name) => name !== 'soak-first');
    while (others.length > this.#options.restores)
      others.splice(Math.floor(this.#random() * others.length), 1);
    for (const name of others) {
      const restored = await this.#site.restore('--backup-id', name, '--target-immediate');
      if (restored.recovery.state !== 'promoted') throw new Error(`O2: ${name} did not become consistent`);
      await restored.remove();
      this.#count('backups restored');
    }
  }

  /** F2, B2: each Backup has one end, and counts once if that was a good one. @returns the names that count */
  async #judgeBackups(): Promise<string[]> {
    const entries = await listBackups(this.#site.openRepository(), NEVER);
    const listed = entries.flatMap(({ info }) => (info?.status === 'DONE' ? (info.backupName ?? []) : []));
    if (new Set(listed).size !== listed.length) throw new Error(`B2: listed twice: ${listed.join(', ')}`);
    for (const name of this.#asked) {
      const { status } = await this.#client.workflow.getHandle(`backup/default/${name}`).describe();
      this.#count(`backups ${status.name.toLowerCase()}`);
      const isGood = status.name === 'COMPLETED';
      if (isGood !== listed.includes(name))
        throw new Error(`B2: the Backup ${name} is ${status.name}, and ${isGood ? 'not ' : ''}listed`);
    }
    return listed;
  }

  /** O5: barman-cloud lists what counts, where this host has it. */
  async #requireReadableByBarman(listed: readonly string[]): Promise<void> {
    const { s3, cluster } = this.#site;
    const program = barman();
    if (program === undefined) return;
    const { access, secret } = this.#site.key();
    const outcome = await runProcess(
      program,
      `--cloud-provider aws-s3 --addressing-style path --format json --endpoint-url ${s3.endpointUrl}`
        .split(' ')
        .concat(`s3://${s3.bucket}/deep`, cluster),
      {
        env: {
          PATH: process.env['PATH'],
          AWS_ACCESS_KEY_ID: access,
          AWS_SECRET_ACCESS_KEY: secret,
          AWS_DEFAULT_REGION: 'us-east-1',
        },
      },
    );
    if (outcome.code !== 0) throw new Error(`O5: barman-cloud can not list:\n${outcome.stderr}`);
    const { backups_list: known } = JSON.parse(outcome.stdout) as { backups_list: { status: string }[] };
    const done = known.filter(({ status }) => status === 'DONE');
    if (done.length !== listed.length)
      throw new Error(`O5: barman-cloud lists ${done.length} backups, and ${listed.length} count`);
  }

  #count(what: string, by = 1): void {
    this.#counts.set(what, (this.#counts.get(what) ?? 0) + by);
  }

  #pick<T>(from: readonly T[]): T {
    return from[Math.floor(this.#random() * from.length)] as T;
  }

  /** What a worker wrote, and how it ended. */
  #keepOutput(): void {
    if (this.#worker) this.#outputs.push(this.#worker.process.output());
  }

  #randomFailpoint(): NodeJS.ProcessEnv {
    if (this.#random() < 0.4) return {};
    const action = this.#random() < 0.7 ? 'kill' : 'stop';
    const nth = 1 + Math.floor(this.#random() * 2);
    // Most of what a worker passes lies in backups and archiving.
    const isUsual = this.#random() < 0.6;
    const places = FAILPOINTS.filter((name) => !isUsual || /^(backup|push)\./.test(name));
    return { WALKEEP_FAILPOINT: `${this.#pick(places)}:${action}:${nth}` };
  }

  async #startWorker(environment = this.#randomFailpoint()): Promise<void> {
    const { machine, cluster, postgres } = this.#site;
    this.#options.log?.(`worker starts ${environment['WALKEEP_FAILPOINT'] ?? ''}`);
    this.#worker = await startFaultyWorker({
      machine,
      temporal: this.#temporal,
      cluster,
      instance: `${cluster}-1`,
      pgdata: postgres.dataDirectory,
      postgres: postgres.environment,
      environment: { WALKEEP_LOG_LEVEL: 'debug', ...environment },
    });
  }

  /** Replaces a worker that is gone, and wakes one that has stopped itself. */
  async #haveWorker(): Promise<void> {
    const worker = this.#worker?.process;
    if (worker?.isRunning()) {
      if (isStopped(worker)) {
        this.#count('stopped at a failpoint');
        await sleep(this.#random() * 6_000);
        worker.signal('SIGCONT');
      }
      return;
    }
    if (worker && (await worker.ended).signal === 'SIGKILL') this.#count('workers that ended by SIGKILL');
    this.#keepOutput();
    await this.#startWorker();
  }

  async #freeze(): Promise<void> {
    this.#worker?.process.signal('SIGSTOP');
    await sleep(1_000 + this.#random() * 6_000);
    this.#worker?.process.signal('SIGCONT');
  }

  async #outage(): Promise<void> {
    await (this.#random() < 0.5 ? this.#temporal.kill9() : this.#temporal.stop());
    await sleep(1_000 + this.#random() * 5_000);
    await this.#haveWorker();
    await this.#temporal.start();
  }

  async #changeWeather(): Promise<void> {
    const climate = this.#pick(CLIMATES);
    this.#options.log?.(`weather ${JSON.stringify(climate)}`);
    this.#site.weather.become(climate);
  }

  async #askForBackup(): Promise<void> {
    const name = `soak-${this.#asked.length}-${Math.floor(this.#random() * 1e6)}`;
    const checkpoint = this.#random() < 0.7 ? ['--immediate-checkpoint'] : [];
    const { machine, cluster } = this.#site;
    const { code } = await machine.walkeep('backup', cluster, '--name', name, ...checkpoint);
    if (code === 0) this.#asked.push(name);
    else this.#count('backups that could not be asked for');
  }

  /** C2: what did not come to its end does not start. */
  async #restoreSomewhere(): Promise<void> {
    const target = join(makeTempDir('soaked'), 'data');
    const { machine, cluster } = this.#site;
    const { code } = await machine.walkeep('restore', cluster, '-D', target);
    this.#count(code === 0 ? 'restores done' : 'restores failed');
    const isStartable = existsSync(join(target, 'global/pg_control'));
    if (isStartable !== (code === 0))
      throw new Error(`C2: restore ended with ${code}, startable: ${isStartable}`);
    rmSync(target, { recursive: true, force: true });
  }

  async #run(command: string): Promise<void> {
    const { machine, cluster } = this.#site;
    const { code, stderr } = await machine.walkeep(command, cluster, ...(OPTIONAL_COMMANDS[command] ?? []));
    this.#count(`${command} ended with ${code}`);
    this.#options.log?.(`${command} ended with ${code}: ${stderr.trim().split('\n').at(-1) ?? ''}`);
    // C6: nothing here is damaged; what could not be tried says nothing else.
    if (command === 'verify' && code === DAMAGED)
      throw new Error(`C6: a sound backup is called bad:\n${stderr}`);
    if (/unforeseen|undefined|\[object|^ +at .*:\d+:\d+/m.test(stderr))
      throw new Error(`${command} ended with ${code}, and no words for it:\n${stderr}`);
  }

  /** Goes on beside what comes next; a broken promise is thrown at the end. */
  async #inBackground(work: () => Promise<void>): Promise<void> {
    if (this.#running.size >= 3) return this.#count('left out, enough was going on');
    const task: Promise<void> = work()
      .catch((error: unknown) => void this.#broken.push(error))
      .finally(() => this.#running.delete(task));
    this.#running.add(task);
  }
}

function isStopped({ pid }: Process): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).startsWith('T');
  } catch {
    return false; // it has ended
  }
}

function barman(): string | undefined {
  try {
    return join(toolPath('barman'), 'barman-cloud-backup-list');
  } catch {
    return undefined;
  }
}
