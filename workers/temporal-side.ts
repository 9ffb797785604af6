import { Context } from '@temporalio/activity';
import { hostname } from 'node:os';
import { createBaseBackupActivities, type BaseBackupPorts } from '../activities/base-backup.ts';
import { createClusterActivities } from '../activities/cluster.ts';
import { createControlActivities } from '../activities/control.ts';
import { createHoldActivities } from '../activities/holds.ts';
import { createRestoreActivities } from '../activities/restore.ts';
import { createRestoreVerificationActivities } from '../activities/restore-verification.ts';
import { createRetentionSweepActivities } from '../activities/retention-sweep.ts';
import { createScheduleActivities, createScheduleLookup } from '../activities/schedules.ts';
import { createWalArchivingActivities } from '../activities/wal-archiving.ts';
import { createWalAuditActivities } from '../activities/wal-audit.ts';
import type { JobRegistry } from '../operations/job-registry.ts';
import type { SecretResolver } from '../operations/secret-resolver.ts';
import type { StateDirectory } from '../operations/state-directory.ts';
import { clusterQueue, instanceQueue, WORKFLOW_QUEUE } from '../workflows/interface.ts';
import type { Archiver } from './archiver.ts';
import { askKeeper } from './ask-keeper.ts';
import { createAuditPorts } from './audit-ports.ts';
import { createCaps, createRestoreCaps } from './caps.ts';
import { createClusterPorts } from './cluster-ports.ts';
import { createControlPorts } from './control-ports.ts';
import { createHoldPorts } from './hold-ports.ts';
import type { Instance } from './instance.ts';
import type { Log } from './log.ts';
import {
  DEFAULT_GRACE_MS,
  type ProcessOptions,
  type QueueWorkerOptions,
  type WorkerOptions,
} from './options.ts';
import { createRestorePorts } from './restore-ports.ts';
import { createSchedulePorts, scheduleService } from './schedule-ports.ts';
import { createSweepPorts } from './sweep-ports.ts';
import { TemporalLink } from './temporal-link.ts';
import { installRuntime } from './temporal-runtime.ts';
import { createWorkersWith } from './temporal-workers.ts';
import { createVerificationPorts } from './verification-ports.ts';

/** Everything of a worker that needs Temporal. */
export interface TemporalSide {
  readonly connected: boolean;
  readonly searchAttributes: boolean;
  /** Rejects unless the server answers within a few seconds. */
  askServer(): Promise<void>;
  stop(): Promise<void>;
}

/** What a worker has wherever it runs. */
export interface SharedParts {
  readonly options: ProcessOptions;
  readonly environment: NodeJS.ProcessEnv;
  readonly state: StateDirectory;
  readonly resolver: SecretResolver;
  readonly jobs: JobRegistry;
  /** Aborted when the worker begins to stop. */
  readonly stopping: AbortSignal;
  readonly log: Log;
}

export interface QueueSideParts extends SharedParts {
  readonly options: QueueWorkerOptions;
}

/** And what one next to a PostgreSQL has besides. */
export interface TemporalSideParts extends SharedParts {
  readonly options: WorkerOptions;
  readonly identity: Instance;
  readonly archiver: Archiver;
  readonly backups: BaseBackupPorts;
  readonly socketPath: () => string;
}

/**
 * Begins to connect to Temporal, and takes work from the queues of the workflows, the cluster and the instance (and
 * from those it was told besides) while it is connected. Returns at once.
 */
export function startTemporalSide(parts: TemporalSideParts): TemporalSide {
  const { options, environment, identity, log } = parts;
  const { namespace, cluster, instance, queues = [] } = options;
  installRuntime(log, options.temporalMetrics);
  const askServer = () => link.askServer();
  const anywhere = createAnywhereActivities(parts, askServer);
  const activities = { ...anywhere, ...createInstanceActivities(parts, askServer) };
  const link: TemporalLink = new TemporalLink({
    environment,
    log,
    keeper: { namespace, cluster, facts: async () => identity.facts(await identity.recentRole()) },
    createWorkers: createWorkersWith({
      identity: `${namespace}/${cluster}/${instance}@${hostname()}`,
      log,
      graceMs: options.graceMs ?? DEFAULT_GRACE_MS,
      queues: [
        { taskQueue: WORKFLOW_QUEUE, localActivities: createScheduleLookup(scheduleService) },
        { taskQueue: clusterQueue(namespace, cluster), activities },
        { taskQueue: instanceQueue(namespace, cluster, instance), activities },
        ...queues.map((taskQueue) => ({ taskQueue, activities: anywhere })),
      ],
    }),
  });
  link.start();
  return link;
}

/** As `startTemporalSide` for a worker without a PostgreSQL: only the queues it was told. */
export function startQueueSide(parts: QueueSideParts): TemporalSide {
  const { options, environment, log } = parts;
  installRuntime(log, options.temporalMetrics);
  const activities = createAnywhereActivities(parts, () => link.askServer());
  const link: TemporalLink = new TemporalLink({
    environment,
    log,
    createWorkers: createWorkersWith({
      identity: `${options.queues.join('+')}@${hostname()}`,
      log,
      graceMs: options.graceMs ?? DEFAULT_GRACE_MS,
      queues: options.queues.map((taskQueue) => ({ taskQueue, activities })),
    }),
  });
  link.start();
  return link;
}

/** What needs no PostgreSQL of this host and no applied manifest: all it needs comes with the input. */
function createAnywhereActivities(parts: SharedParts, askServer: () => Promise<void>): object {
  const { resolver, jobs } = parts;
  return {
    ...createRetentionSweepActivities(
      createSweepPorts({
        resolver,
        jobs,
        askServer,
        // Of the Temporal that gave the work.
        askKeeper: (reference) => askKeeper(Context.current().client, reference),
      }),
    ),
    ...createRestoreVerificationActivities(createVerificationPorts({ ...parts, askServer })),
  };
}

/** What is done next to a PostgreSQL, or with what was applied on its host. */
function createInstanceActivities(parts: TemporalSideParts, askServer: () => Promise<void>): object {
  const {
    options,
    environment,
    state,
    resolver,
    jobs,
    identity,
    archiver,
    backups,
    socketPath,
    stopping,
    log,
  } = parts;
  const { instance, pgdata } = options;
  const secretsDirectory = environment['WALKEEP_SECRETS_DIR'];
  const clusterActivities = createClusterActivities({
    ...createClusterPorts({ own: options, environment, state, facts: () => identity.facts(), log }),
    caps: createCaps(options.caps, hostname()),
  });
  return {
    ...clusterActivities,
    ...createHoldActivities(createHoldPorts(resolver)),
    ...createScheduleActivities(
      createSchedulePorts({
        state,
        resolver,
        loadCluster: (reference) => clusterActivities.loadCluster(reference),
        hasSearchAttributes: async () => (await identity.facts(await identity.recentRole())).searchAttributes,
      }),
    ),
    ...createBaseBackupActivities(backups),
    ...createControlActivities(createControlPorts({ jobs, log })),
    ...createWalArchivingActivities({ readArchiving: () => archiver.report(), stopping }),
    ...createWalAuditActivities(
      createAuditPorts({
        instance,
        pgdata,
        hasDataDirectory: () => identity.hasDataDirectory(),
        resolver,
        jobs,
        askServer,
        log,
      }),
    ),
    ...createRestoreActivities(
      createRestorePorts({
        instance,
        pgdata,
        state,
        resolver,
        ...(secretsDirectory && { secretsDirectory }),
        socketPath,
        jobs,
        askServer,
        caps: createRestoreCaps(options.caps, hostname()),
      }),
    ),
  };
}
