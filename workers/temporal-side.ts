import {
  bundleWorkflowCode,
  Runtime,
  Worker,
  type NativeConnection,
  type WorkflowBundleOption,
} from '@temporalio/worker';
import { hostname } from 'node:os';
import { createBaseBackupActivities, type BaseBackupPorts } from '../activities/base-backup.ts';
import { createClusterActivities, type ClusterReference } from '../activities/cluster.ts';
import { failureInterceptor } from '../activities/failure.ts';
import { createRestoreActivities } from '../activities/restore.ts';
import { createWalArchivingActivities } from '../activities/wal-archiving.ts';
import { BackupError } from '../core/errors.ts';
import type { JobRegistry } from '../operations/job-registry.ts';
import type { SecretResolver } from '../operations/secret-resolver.ts';
import type { StateDirectory } from '../operations/state-directory.ts';
import { clusterQueue, instanceQueue, WORKFLOW_QUEUE } from '../workflows/interface.ts';
import type { Archiver } from './archiver.ts';
import type { Instance } from './instance.ts';
import { temporalLogger, type Log } from './log.ts';
import { DEFAULT_GRACE_MS, paceFrom, type WorkerOptions } from './options.ts';
import { createRestorePorts } from './restore-ports.ts';
import { TemporalLink } from './temporal-link.ts';
import { workflowSource } from './workflow-bundle.ts';

/** Everything of a worker that needs Temporal. */
export interface TemporalSide {
  readonly connected: boolean;
  readonly searchAttributes: boolean;
  /** Rejects unless the server answers within a few seconds. */
  askServer(): Promise<void>;
  stop(): Promise<void>;
}

export interface TemporalSideParts {
  readonly options: WorkerOptions;
  readonly environment: NodeJS.ProcessEnv;
  readonly state: StateDirectory;
  readonly resolver: SecretResolver;
  readonly jobs: JobRegistry;
  readonly identity: Instance;
  readonly archiver: Archiver;
  readonly backups: BaseBackupPorts;
  readonly socketPath: () => string;
  /** Aborted when the worker begins to stop. */
  readonly stopping: AbortSignal;
  readonly log: Log;
}

/** Begins to connect to Temporal, and takes work from the three queues while it is connected. Returns at once. */
export function startTemporalSide(parts: TemporalSideParts): TemporalSide {
  const { options, environment, identity, log } = parts;
  const { namespace, cluster, instance } = options;
  installRuntime(log);
  const link: TemporalLink = new TemporalLink({
    environment,
    namespace,
    cluster,
    log,
    facts: async () => identity.facts(await identity.recentRole()),
    createWorkers: workerFactory({
      namespace,
      cluster,
      instance,
      activities: createActivities(parts, () => link.askServer()),
      log,
      graceMs: options.graceMs ?? DEFAULT_GRACE_MS,
    }),
  });
  link.start();
  return link;
}

function createActivities(parts: TemporalSideParts, askServer: () => Promise<void>): object {
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
  return {
    ...createClusterActivities({
      readManifest: (reference) => state.clusters.read(reference.namespace, reference.cluster),
      writeManifest: async ({ manifest, revision, ...reference }) => {
        requireOwn(reference, options);
        const saved = await state.clusters.save(manifest, { revision });
        log.info({ revision: saved.revision, outcome: saved.outcome }, 'manifest stored');
      },
      instanceFacts: () => identity.facts(),
      pace: paceFrom(environment),
    }),
    ...createBaseBackupActivities(backups),
    ...createWalArchivingActivities({ readArchiving: () => archiver.report(), stopping }),
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
      }),
    ),
  };
}

/** Once a process: Temporal's own logs go through ours, and signals are the caller's. */
function installRuntime(log: Log): void {
  try {
    Runtime.install({
      logger: temporalLogger(log),
      shutdownSignals: [],
      telemetryOptions: { logging: { filter: { core: 'WARN', other: 'ERROR' }, forward: {} } },
    });
  } catch (error) {
    log.debug({ error }, 'the runtime of Temporal was installed before');
  }
}

interface Factory {
  readonly namespace: string;
  readonly cluster: string;
  readonly instance: string;
  readonly activities: object;
  readonly log: Log;
  readonly graceMs: number;
}

/** The workers of the three queues, for each connection anew; the workflows are bundled once. */
function workerFactory({ namespace, cluster, instance, activities, log, graceMs }: Factory) {
  let bundled: Promise<WorkflowBundleOption> | undefined;
  const interceptor = failureInterceptor((error, activity) =>
    log.warn({ error, activity }, `${activity} failed`),
  );
  return async (connection: NativeConnection, temporalNamespace: string): Promise<Worker[]> => {
    bundled ??= bundle(log);
    bundled.catch(() => (bundled = undefined));
    const workflowBundle = await bundled;
    const common = {
      connection,
      namespace: temporalNamespace,
      identity: `${namespace}/${cluster}/${instance}@${hostname()}`,
      shutdownGraceTime: graceMs,
      shutdownForceTime: graceMs + 90_000,
      maxHeartbeatThrottleInterval: 5_000,
      // Quiet queues: a database does few things at a time.
      maxConcurrentActivityTaskPolls: 2,
      maxConcurrentWorkflowTaskPolls: 2,
      maxConcurrentActivityTaskExecutions: 20,
      interceptors: { activity: [interceptor] },
    };
    const created: Worker[] = [];
    created.push(
      await Worker.create({ ...common, taskQueue: WORKFLOW_QUEUE, workflowBundle, maxCachedWorkflows: 200 }),
    );
    for (const taskQueue of [clusterQueue(namespace, cluster), instanceQueue(namespace, cluster, instance)]) {
      created.push(await Worker.create({ ...common, taskQueue, activities }));
    }
    return created;
  };
}

async function bundle(log: Log): Promise<WorkflowBundleOption> {
  const source = workflowSource();
  if ('workflowBundle' in source) return source.workflowBundle;
  return bundleWorkflowCode({ workflowsPath: source.workflowsPath, logger: temporalLogger(log) });
}

function requireOwn(asked: ClusterReference, own: ClusterReference): void {
  if (asked.namespace === own.namespace && asked.cluster === own.cluster) return;
  throw new BackupError(
    'config-invalid',
    `this worker serves "${own.namespace}/${own.cluster}", not "${asked.namespace}/${asked.cluster}"`,
  );
}
