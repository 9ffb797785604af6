import { Context } from '@temporalio/activity';
import { nextRuns } from '../core/cron.ts';
import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import type { ScheduleTimes } from '../core/schedule-calendars.ts';
import { scheduleTimes } from '../core/schedule-calendars.ts';
import { nextSlots, rfc3339, slotBackupName, type SlotTimes } from '../core/slots.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { scheduleOf } from '../manifests/schedule.ts';
import type { ScheduledBackupManifest } from '../manifests/scheduled-backup.ts';
import {
  auditSlots,
  considerSlot,
  endSeries,
  keepSeries,
  slotToMakeUpFor,
} from '../operations/schedule-slots.ts';
import type { Repository } from '../repository/repository.ts';
import { readSlot, slotsBefore, type SlotRecord } from '../repository/slots.ts';
import type { SlotNews } from '../workflows/interface.ts';
import { beatWhile } from './beat-while.ts';
import type { ClusterFacts, ClusterReference } from './cluster.ts';

export interface LoadScheduleInput extends ClusterReference {
  /** Without it only the cluster is loaded. */
  readonly scheduledBackup?: string;
}

/** What a run of a schedule knows after its first look. */
export interface ScheduleFacts {
  readonly cluster: ClusterFacts;
  readonly schedule?: ScheduledBackupManifest;
}

export interface ConsiderSlotInput extends ClusterReference {
  readonly manifest: ClusterManifest;
  readonly schedule?: ScheduledBackupManifest;
  /** RFC 3339, in whole seconds. */
  readonly slot: string;
  /** The run that `immediate: true` asks for. */
  readonly immediate?: boolean;
  /** How long a Backup may take, in seconds. */
  readonly deadline: number;
  /** What was found out about the Backup of an answer `ask`. */
  readonly asked?: { readonly backupName: string; readonly isOpen: boolean };
}

/** `ask`: whether this Backup is still going on decides. */
export type ConsideredSlot =
  { readonly ask: string } | { readonly news: SlotNews; readonly missed: readonly SlotNews[] };

export interface ConvergeSchedulesInput extends ClusterReference {
  readonly manifest: ClusterManifest;
  /** All that are declared. */
  readonly schedules: readonly ScheduledBackupManifest[];
  /** Names that were made true once: a list of Schedules may be behind. */
  readonly known: readonly string[];
}

/** What became of the Schedule of one ScheduledBackup. */
export interface ConvergedSchedule {
  readonly name: string;
  /** `foreign`: somebody else's, left as it is; `refused`: it can't be made true; `failed`: it could not be now. */
  readonly outcome: 'created' | 'configured' | 'unchanged' | 'deleted' | 'foreign' | 'refused' | 'failed';
  /** RFC 3339; none while it is suspended. */
  readonly nextRuns: readonly string[];
  /** Why not all of it is true. Converging again may help; what is true already stays as it is. */
  readonly problem?: string;
}

export interface AuditSlotsInput extends ClusterReference {
  readonly manifest: ClusterManifest;
  readonly schedule: ScheduledBackupManifest;
  /** RFC 3339: what is due after, … */
  readonly since: string;
  /** … and not after this. */
  readonly until: string;
}

/** A Schedule as it should be. */
export interface WantedSchedule extends ClusterReference {
  readonly name: string;
  readonly times: ScheduleTimes;
  readonly isPaused: boolean;
  readonly note: string;
  readonly hasSearchAttributes: boolean;
}

/** A Schedule as it is. */
export interface FoundSchedule {
  /** Absent when it is not walkeep's. */
  readonly owner?: ClusterReference;
  readonly times: ScheduleTimes;
  equals(wanted: WantedSchedule): boolean;
}

/** Temporal's Schedules, by the names of ScheduledBackups. */
export interface ScheduleService {
  find(namespace: string, name: string): Promise<FoundSchedule | undefined>;
  /** @returns false when there is one already */
  create(wanted: WantedSchedule): Promise<boolean>;
  update(wanted: WantedSchedule): Promise<void>;
  /** Deleting what is not there succeeds. */
  delete(namespace: string, name: string): Promise<void>;
  /** The names of a cluster's; what was just made may be missing. */
  list(cluster: ClusterReference): Promise<string[]>;
  /** Starts the run of a slot that no Schedule begins, or the one that `immediate: true` asks for, unless it is going on. */
  begin(cluster: ClusterReference, name: string, slot: Date | 'immediate'): Promise<void>;
}

export interface SchedulePorts {
  loadCluster(cluster: ClusterReference): Promise<ClusterFacts>;
  /** As this worker's state directory has it. */
  readSchedule(namespace: string, name: string): Promise<ScheduledBackupManifest | undefined>;
  withRepository<Result>(
    manifest: ClusterManifest,
    work: (repository: Repository) => Promise<Result>,
  ): Promise<Result>;
  hasSearchAttributes(): Promise<boolean>;
  /** Of the server that gave the work. */
  schedules(): ScheduleService;
}

const IMMEDIATE = 'immediate';
/** So often convergence is tried again within seconds before the failure is told. */
const AT_ONCE = 3;
/** F4: there is room for a few hundred in a payload. */
const MOST_NEWS = 100;
const MOST_RUN_NEWS = 20;

/** Schedules, and what becomes of their slots. */
export function createScheduleActivities(ports: SchedulePorts) {
  return {
    /** The applied Cluster and ScheduledBackup. @throws BackupError `cluster-unknown` | `schedule-unknown` */
    async loadSchedule({ namespace, cluster, scheduledBackup }: LoadScheduleInput): Promise<ScheduleFacts> {
      const facts = await ports.loadCluster({ namespace, cluster });
      if (scheduledBackup === undefined) return { cluster: facts };
      const schedule = await ports.readSchedule(namespace, scheduledBackup);
      if (schedule?.spec.cluster.name === cluster) return { cluster: facts, schedule };
      throw new BackupError(
        'schedule-unknown',
        `the worker of "${namespace}/${cluster}" has no ScheduledBackup "${scheduledBackup}" of it`,
      );
    },

    /** Decides what becomes of a slot and records it, or finds what is recorded. */
    async considerSlot(input: ConsiderSlotInput): Promise<ConsideredSlot> {
      const { cluster, manifest, schedule, deadline, asked } = input;
      const slot = new Date(input.slot);
      const series = schedule?.metadata.name ?? cluster;
      const signal = Context.current().cancellationSignal;
      const answer = await beatWhile(
        ports.withRepository(manifest, (repository) =>
          considerSlot(
            repository,
            {
              series,
              ...(schedule && { schedule }),
              key: input.immediate ? IMMEDIATE : slot,
              slot,
              now: serverTime(),
              backupName: slotBackupName(series, slot),
              deadlineMs: deadline * 1000,
              ...(asked && { asked }),
            },
            signal,
          ),
        ),
      );
      if ('ask' in answer) return answer;
      return { news: newsOf(answer.record), missed: answer.missed.slice(0, MOST_RUN_NEWS).map(newsOf) };
    },

    /**
     * Makes Temporal's Schedules what is declared. Doing it again changes nothing. One that fails keeps none of the
     * others from being made true: it is tried again in a moment, and told as `failed` when that did not help.
     */
    async convergeSchedules(input: ConvergeSchedulesInput): Promise<ConvergedSchedule[]> {
      const work = new Convergence(ports, input, Context.current().cancellationSignal, serverTime());
      return beatWhile(work.converge(Context.current().info.attempt <= AT_ONCE));
    },

    /**
     * Records slots that were due and that nothing began, and begins the newest where it can be made up for: a server
     * leaves out slots of some time zones in the night in which the clock is put back.
     *
     * @returns what is missed, the newest when they are many
     */
    async auditSlots(input: AuditSlotsInput): Promise<SlotNews[]> {
      const { namespace, cluster, manifest, schedule, since, until } = input;
      const signal = Context.current().cancellationSignal;
      const question = { schedule, since: new Date(since), until: new Date(until), now: serverTime() };
      const audited = await beatWhile(
        ports.withRepository(manifest, (repository) => auditSlots(repository, question, signal)),
      );
      const { name } = schedule.metadata;
      if (audited.open) await ports.schedules().begin({ namespace, cluster }, name, audited.open);
      return audited.missed.slice(-MOST_NEWS).map(newsOf);
    },
  };
}

export interface FindScheduleInput {
  readonly namespace: string;
  readonly scheduledBackup: string;
}

/** What a run that was given no cluster asks, on the queue of the workflows. */
export function createScheduleLookup(schedules: () => ScheduleService) {
  return {
    /** The cluster of a ScheduledBackup, as its Schedule has it. @throws BackupError `schedule-unknown` */
    async findSchedule({ namespace, scheduledBackup }: FindScheduleInput): Promise<{ cluster: string }> {
      const found = await schedules().find(namespace, scheduledBackup);
      if (found?.owner) return { cluster: found.owner.cluster };
      throw new BackupError(
        'schedule-unknown',
        `Temporal has no Schedule of a ScheduledBackup "${namespace}/${scheduledBackup}"`,
        { hint: 'apply it first; or name its cluster as well: {"scheduledBackup": "…", "cluster": "…"}' },
      );
    },
  };
}

export type ScheduleLookup = ReturnType<typeof createScheduleLookup>;

export type ScheduleActivities = ReturnType<typeof createScheduleActivities>;

/** The server's clock at the beginning of this attempt: it is the one that begins slots, whatever this host's says. */
function serverTime(): Date {
  const { currentAttemptScheduledTimestampMs: given } = Context.current().info;
  return new Date(given > 0 ? given : Date.now());
}

function newsOf(record: SlotRecord): SlotNews {
  const { scheduledBackup, slot, outcome, reason, backupName } = record;
  return {
    scheduledBackup,
    slot,
    outcome,
    ...(reason !== undefined && { reason }),
    ...(backupName !== undefined && { backupName }),
  };
}

class Convergence {
  readonly #ports: SchedulePorts;
  readonly #input: ConvergeSchedulesInput;
  readonly #signal: AbortSignal;
  readonly #now: Date;
  readonly #service: ScheduleService;
  #failure: unknown;

  constructor(ports: SchedulePorts, input: ConvergeSchedulesInput, signal: AbortSignal, now: Date) {
    this.#ports = ports;
    this.#input = input;
    this.#signal = signal;
    this.#now = now;
    this.#service = ports.schedules();
  }

  /** @param mayThrow whether the caller begins anew at once when something failed that may pass */
  async converge(mayThrow: boolean): Promise<ConvergedSchedule[]> {
    const { schedules, known, ...cluster } = this.#input;
    const told: ConvergedSchedule[] = [];
    for (const schedule of schedules)
      told.push(await this.#orFailed(schedule.metadata.name, () => this.#make(schedule)));
    // After the declared ones: where Schedules can't be listed those are made all the same.
    const listed = await this.#service.list(cluster);
    const wanted = new Set(schedules.map(({ metadata }) => metadata.name));
    const others = new Set([...known, ...listed].filter((name) => !wanted.has(name)));
    for (const name of others) told.push(await this.#orFailed(name, () => this.#remove(name)));
    if (mayThrow && this.#failure !== undefined) throw this.#failure;
    return told;
  }

  async #orFailed(name: string, work: () => Promise<ConvergedSchedule>): Promise<ConvergedSchedule> {
    try {
      return await work();
    } catch (error) {
      this.#signal.throwIfAborted();
      this.#failure = error;
      const problem = `ScheduledBackup "${name}" could not be made true in Temporal: ${messageOf(error)}`;
      return { name, outcome: 'failed', nextRuns: [], problem };
    }
  }

  async #make(schedule: ScheduledBackupManifest): Promise<ConvergedSchedule> {
    const { name, namespace } = schedule.metadata;
    const found = await this.#service.find(namespace, name);
    if (found && !this.#isOurs(found)) return foreign(name, namespace, found.owner);
    let wanted: WantedSchedule;
    const kept = await this.#keepSeries(schedule);
    try {
      wanted = await this.#wanted(schedule, anchorOf(schedule, found, kept.anchor, this.#now));
    } catch (error) {
      if (!isBackupError(error)) throw error;
      // What ran until now is not what is declared any more.
      if (found) await this.#service.delete(namespace, name);
      return { name, outcome: 'refused', nextRuns: [], problem: error.message };
    }
    const problem = (await this.#beginImmediate(schedule)) ?? kept.problem;
    const outcome = await this.#apply(schedule, wanted, found);
    if (outcome === 'foreign') return foreign(name, namespace, undefined);
    return {
      name,
      outcome,
      nextRuns: schedule.spec.suspend ? [] : nextRunsOf(schedule, wanted, this.#now),
      ...(problem !== undefined && { problem }),
    };
  }

  async #apply(
    schedule: ScheduledBackupManifest,
    wanted: WantedSchedule,
    found: FoundSchedule | undefined,
  ): Promise<'created' | 'configured' | 'unchanged' | 'foreign'> {
    if (!found) {
      const overdue = await this.#repository((r) => slotToMakeUpFor(r, schedule, this.#now, this.#signal));
      if (overdue.value) await this.#service.begin(wanted, wanted.name, overdue.value);
      if (await this.#service.create(wanted)) return 'created';
      // Another attempt of this, or somebody else, was faster.
      const there = await this.#service.find(wanted.namespace, wanted.name);
      if (!there || !this.#isOurs(there)) return 'foreign';
      return this.#apply(schedule, wanted, there);
    }
    if (found.equals(wanted)) return 'unchanged';
    await this.#service.update(wanted);
    return 'configured';
  }

  async #remove(name: string): Promise<ConvergedSchedule> {
    const { namespace } = this.#input;
    const found = await this.#service.find(namespace, name);
    if (found && !this.#isOurs(found)) return { name, outcome: 'foreign', nextRuns: [] };
    if (found) await this.#service.delete(namespace, name);
    const { problem } = await this.#repository((r) => endSeries(r, name, this.#now, this.#signal));
    return {
      name,
      outcome: 'deleted',
      nextRuns: [],
      // Otherwise what is due from now on would be missed, if it is ever declared again.
      ...(problem !== undefined && {
        problem: `that "${name}" was taken back could not be written into the repository: ${problem}`,
      }),
    };
  }

  #isOurs({ owner }: FoundSchedule): boolean {
    return owner?.namespace === this.#input.namespace && owner.cluster === this.#input.cluster;
  }

  async #wanted(schedule: ScheduledBackupManifest, anchor: Date): Promise<WantedSchedule> {
    const { name, namespace } = schedule.metadata;
    const { spec, timezone } = scheduleOf(schedule);
    const suspended = schedule.spec.suspend ? '; suspended in the manifest' : '';
    return {
      namespace,
      cluster: this.#input.cluster,
      name,
      times: scheduleTimes(spec, timezone, anchor),
      isPaused: schedule.spec.suspend,
      note: `walkeep: ScheduledBackup ${namespace}/${name} of ${this.#input.cluster}: "${spec.text}" ${timezone} (${spec.dialect})${suspended}`,
      hasSearchAttributes: await this.#ports.hasSearchAttributes(),
    };
  }

  async #keepSeries(schedule: ScheduledBackupManifest): Promise<{ anchor?: Date; problem?: string }> {
    const kept = await this.#repository(async (r) => {
      // One that never runs is refused by whoever makes calendars of it.
      const { spec, timezone } = scheduleOf(schedule);
      if (nextRuns(spec, this.#now, 1, timezone).length === 0) return undefined;
      return keepSeries(r, schedule, this.#now, this.#signal);
    });
    return {
      ...(kept.value && { anchor: kept.value }),
      ...(kept.problem !== undefined && {
        problem: `when "${schedule.metadata.name}" is due could not be written into the repository: ${kept.problem}`,
      }),
    };
  }

  /** Once, when the schedule is seen first; whether it was is in the repository, which outlives Temporal. */
  async #beginImmediate(schedule: ScheduledBackupManifest): Promise<string | undefined> {
    const { name } = schedule.metadata;
    if (!schedule.spec.immediate || schedule.spec.suspend) return undefined;
    const seen = await this.#repository(async (r) => {
      if (await readSlot(r, name, IMMEDIATE, this.#signal)) return true;
      const ever = slotsBefore(r, name, new Date(this.#now.getTime() + 1), new Date(0), this.#signal);
      for await (const _slot of ever) return true;
      return false;
    });
    // A repository that does not answer is waited for by the run: it writes the record before it begins anything.
    if (seen.value !== true) await this.#service.begin(this.#input, name, IMMEDIATE);
    return undefined;
  }

  /** What the repository says, or why it does not: Temporal's Schedules are made all the same. */
  async #repository<Value>(
    work: (r: Repository) => Promise<Value>,
  ): Promise<{ readonly value?: Value; readonly problem?: string }> {
    try {
      return { value: await this.#ports.withRepository(this.#input.manifest, work) };
    } catch (error) {
      this.#signal.throwIfAborted();
      if (!isBackupError(error)) throw error;
      return { problem: error.message };
    }
  }
}

function foreign(name: string, namespace: string, owner: ClusterReference | undefined): ConvergedSchedule {
  const whose = owner
    ? `belongs to the cluster "${owner.namespace}/${owner.cluster}"`
    : 'was not made by walkeep';
  return {
    name,
    outcome: 'foreign',
    nextRuns: [],
    problem: `ScheduledBackup "${name}" does not run: the Schedule "scheduledbackup/${namespace}/${name}" in Temporal ${whose} and was left as it is; delete it there, or give this one another name`,
  };
}

/** `@every` goes on in step with what the repository says, else with the Schedule that is there, else from now. */
function anchorOf(
  schedule: ScheduledBackupManifest,
  found: FoundSchedule | undefined,
  kept: Date | undefined,
  now: Date,
): Date {
  const { spec } = scheduleOf(schedule);
  if (kept || spec.kind !== 'every') return kept ?? now;
  const interval = found?.times.intervals[0];
  return interval?.every === spec.intervalMs ? new Date(interval.offset) : now;
}

function nextRunsOf(schedule: ScheduledBackupManifest, wanted: WantedSchedule, now: Date): string[] {
  const { spec, timezone } = scheduleOf(schedule);
  const [interval] = wanted.times.intervals;
  const times: SlotTimes = { spec, timezone, ...(interval && { anchor: new Date(interval.offset) }) };
  return nextSlots(times, now, 3).map(rfc3339);
}
