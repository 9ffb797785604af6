import { Context } from '@temporalio/activity';
import {
  ScheduleAlreadyRunning,
  ScheduleNotFoundError,
  ScheduleOverlapPolicy,
  type Client,
  type ScheduleDescription,
  type ScheduleOptions,
} from '@temporalio/client';
import type { ClusterFacts, ClusterReference } from '../activities/cluster.ts';
import type {
  FoundSchedule,
  SchedulePorts,
  ScheduleService,
  WantedSchedule,
} from '../activities/schedules.ts';
import { canonicalJson } from '../core/fingerprint.ts';
import type { ScheduleTimes } from '../core/schedule-calendars.ts';
import { CATCH_UP_MS, rfc3339 } from '../core/slots.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import type { SecretResolver } from '../operations/secret-resolver.ts';
import type { StateDirectory } from '../operations/state-directory.ts';
import {
  scheduleId,
  SEARCH_ATTRIBUTE,
  WORKFLOW,
  WORKFLOW_QUEUE,
  type ScheduledBackupInput,
} from '../workflows/interface.ts';

export interface SchedulePortsParts {
  readonly state: StateDirectory;
  readonly resolver: SecretResolver;
  readonly loadCluster: (cluster: ClusterReference) => Promise<ClusterFacts>;
  readonly hasSearchAttributes: () => Promise<boolean>;
}

/** The schedules of this worker's cluster: its state directory, the repository, and the Temporal that gave the work. */
export function createSchedulePorts(parts: SchedulePortsParts): SchedulePorts {
  const { state, resolver, loadCluster, hasSearchAttributes } = parts;
  return {
    loadCluster,
    hasSearchAttributes,
    async readSchedule(namespace, name) {
      return (await state.scheduledBackups.read(namespace, name))?.manifest;
    },
    async withRepository(manifest, work) {
      const repository = await openClusterRepository(manifest, resolver);
      try {
        return await work(repository);
      } finally {
        await repository.close();
      }
    },
    schedules: scheduleService,
  };
}

/** Of the Temporal that gave this activity its work. */
export function scheduleService(): ScheduleService {
  return createScheduleService(Context.current().client);
}

const DEADLINE_MS = 15_000;
/** Where Schedules can't be found by attributes, so many are looked through. */
const MOST_LISTED = 2_000;

/** Temporal's Schedules. Each call ends within a deadline: a frozen server never answers. */
export function createScheduleService(client: Client): ScheduleService {
  const call = <Result>(work: () => Promise<Result>): Promise<Result> =>
    client.withDeadline(Date.now() + DEADLINE_MS, work);
  const handle = (namespace: string, name: string) => client.schedule.getHandle(scheduleId(namespace, name));
  return {
    find: (namespace, name) =>
      call(async () => {
        try {
          return foundSchedule(await handle(namespace, name).describe());
        } catch (error) {
          if (error instanceof ScheduleNotFoundError) return undefined;
          throw error;
        }
      }),

    create: (wanted) =>
      call(async () => {
        try {
          await client.schedule.create({
            ...optionsOf(wanted),
            scheduleId: scheduleId(wanted.namespace, wanted.name),
            memo: { walkeep: ownerOf(wanted) },
          });
          return true;
        } catch (error) {
          if (error instanceof ScheduleAlreadyRunning) return false;
          throw error;
        }
      }),

    update: (wanted) => call(() => handle(wanted.namespace, wanted.name).update(() => optionsOf(wanted))),

    delete: (namespace, name) =>
      call(async () => {
        try {
          await handle(namespace, name).delete();
        } catch (error) {
          if (!(error instanceof ScheduleNotFoundError)) throw error;
        }
      }),

    list: ({ namespace, cluster }) =>
      call(async () => {
        const names: string[] = [];
        let seen = 0;
        for await (const summary of client.schedule.list({ pageSize: 200 })) {
          if ((seen += 1) > MOST_LISTED) break;
          const owner = parseOwner(summary.memo);
          if (owner?.namespace === namespace && owner.cluster === cluster) names.push(owner.scheduledBackup);
        }
        return names;
      }),

    begin: ({ namespace, cluster }, name, slot) =>
      call(async () => {
        const isImmediate = slot === 'immediate';
        const input: ScheduledBackupInput = {
          scheduledBackup: name,
          cluster,
          namespace,
          ...(isImmediate && { immediate: true }),
        };
        await client.workflow.start(WORKFLOW.scheduledBackup, {
          taskQueue: WORKFLOW_QUEUE,
          // As the Schedule itself names it: whichever comes first is the run of the slot.
          workflowId: `${scheduleId(namespace, name)}-${isImmediate ? slot : rfc3339(slot)}`,
          args: [input],
          workflowIdConflictPolicy: 'USE_EXISTING',
          workflowIdReusePolicy: 'ALLOW_DUPLICATE',
          staticSummary: `${name}: ${isImmediate ? 'the run that immediate asks for' : 'begun late'}`,
        });
      }),
  };
}

/** Marks a Schedule as walkeep's. It never changes: the cluster of a ScheduledBackup is immutable. */
interface Owner extends ClusterReference {
  readonly scheduledBackup: string;
}

function ownerOf({ namespace, cluster, name }: WantedSchedule): Owner {
  return { namespace, cluster, scheduledBackup: name };
}

function parseOwner(memo: Record<string, unknown> | undefined): Owner | undefined {
  const owner = memo?.['walkeep'];
  if (typeof owner !== 'object' || owner === null) return undefined;
  const { namespace, cluster, scheduledBackup } = owner as Record<string, unknown>;
  if (typeof namespace !== 'string' || typeof cluster !== 'string') return undefined;
  return typeof scheduledBackup === 'string' ? { namespace, cluster, scheduledBackup } : undefined;
}

/** What can be changed of a Schedule. */
function optionsOf(wanted: WantedSchedule) {
  const { namespace, cluster, name, times, isPaused, note, hasSearchAttributes } = wanted;
  const input: ScheduledBackupInput = { scheduledBackup: name, cluster, namespace };
  const attributes = hasSearchAttributes && {
    typedSearchAttributes: [
      { key: SEARCH_ATTRIBUTE.cluster, value: cluster },
      { key: SEARCH_ATTRIBUTE.namespace, value: namespace },
      { key: SEARCH_ATTRIBUTE.operation, value: 'schedule' },
    ],
  };
  return {
    spec: specOf(times),
    action: {
      type: 'startWorkflow',
      workflowType: WORKFLOW.scheduledBackup,
      workflowId: scheduleId(namespace, name),
      taskQueue: WORKFLOW_QUEUE,
      args: [input],
      staticSummary: `ScheduledBackup ${name} of ${namespace}/${cluster}`,
      ...attributes,
    },
    // Overlap is decided by the run: a slot that is skipped has a record.
    policies: {
      overlap: ScheduleOverlapPolicy.ALLOW_ALL,
      catchupWindow: CATCH_UP_MS,
      pauseOnFailure: false,
    },
    state: { paused: isPaused, note },
    ...attributes,
  } satisfies Omit<ScheduleOptions, 'scheduleId'>;
}

function specOf({ timezone, calendars, intervals }: ScheduleTimes): ScheduleOptions['spec'] {
  return {
    timezone,
    calendars: calendars.map((calendar) => ({
      second: [...calendar.second],
      minute: [...calendar.minute],
      hour: [...calendar.hour],
      dayOfMonth: [...calendar.dayOfMonth],
      month: [...calendar.month],
      dayOfWeek: [...calendar.dayOfWeek],
      comment: calendar.comment,
    })),
    intervals: [...intervals],
  };
}

function foundSchedule(description: ScheduleDescription): FoundSchedule {
  const owner = parseOwner(description.memo);
  const times = timesOf(description.spec);
  return {
    ...(owner && { owner: { namespace: owner.namespace, cluster: owner.cluster } }),
    times,
    equals(wanted) {
      const { action, policies, state } = optionsOf(wanted);
      const cluster = description.typedSearchAttributes.get(SEARCH_ATTRIBUTE.cluster);
      const { workflowType, workflowId, taskQueue, args, staticSummary } = action;
      const is = description.action;
      const same = (a: unknown, b: unknown) => canonicalJson(a) === canonicalJson(b);
      return (
        same(times, wanted.times) &&
        same(description.policies, policies) &&
        same({ paused: description.state.paused, note: description.state.note }, state) &&
        same(
          {
            workflowType: is.workflowType,
            workflowId: is.workflowId,
            taskQueue: is.taskQueue,
            args: is.args,
            staticSummary: is.staticSummary,
          },
          { workflowType, workflowId, taskQueue, args, staticSummary },
        ) &&
        // Attributes that are there stay, when this worker can't see whether they exist.
        (!wanted.hasSearchAttributes || cluster === wanted.cluster)
      );
    },
  };
}

function timesOf(spec: ScheduleDescription['spec']): ScheduleTimes {
  return {
    timezone: spec.timezone ?? 'UTC',
    calendars: (spec.calendars ?? []).map((calendar) => ({
      second: calendar.second,
      minute: calendar.minute,
      hour: calendar.hour,
      dayOfMonth: calendar.dayOfMonth,
      month: calendar.month,
      dayOfWeek: calendar.dayOfWeek,
      comment: calendar.comment ?? '',
    })),
    intervals: (spec.intervals ?? []).map(({ every, offset }) => ({ every, offset })),
  };
}
