import type { WorkflowHandle } from '@temporalio/client';
import { TestWorkflowEnvironment } from '@temporalio/testing';
import {
  bundleWorkflowCode,
  DefaultLogger,
  type NativeConnection,
  Runtime,
  Worker,
  type WorkflowBundle,
} from '@temporalio/worker';
import { fileURLToPath } from 'node:url';
import { createBaseBackupActivities, type BaseBackupPorts } from '../../activities/base-backup.ts';
import {
  createClusterActivities,
  type ClusterPorts,
  type InstanceRole,
  type Pace,
} from '../../activities/cluster.ts';
import { createControlActivities } from '../../activities/control.ts';
import { failureInterceptor } from '../../activities/failure.ts';
import { createHoldActivities } from '../../activities/holds.ts';
import { createRestoreActivities, type RestorePorts } from '../../activities/restore.ts';
import { createScheduleActivities, createScheduleLookup } from '../../activities/schedules.ts';
import {
  createRetentionSweepActivities,
  type RetentionSweepPorts,
} from '../../activities/retention-sweep.ts';
import { createWalArchivingActivities, type WalArchivingPorts } from '../../activities/wal-archiving.ts';
import { createWalAuditActivities, type AuditPorts } from '../../activities/wal-audit.ts';
import { findTemporal } from '../../cli/dev.ts';
import type { AuditReport } from '../../core/audit.ts';
import type { BackupStatus } from '../../core/backup-status.ts';
import type { ClusterManifest } from '../../manifests/cluster.ts';
import { desireFingerprint, type Desire } from '../../manifests/desire.ts';
import type { ScheduledBackupManifest } from '../../manifests/scheduled-backup.ts';
import { JobRegistry } from '../../operations/job-registry.ts';
import { writeOutcome } from '../../repository/outcome.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { scheduleService } from '../../workers/schedule-ports.ts';
import * as walkeep from '../../workflows/interface.ts';

/** The real development server, with walkeep's search attributes. */
export async function startTemporal(extraArgs: readonly string[] = []): Promise<TestWorkflowEnvironment> {
  quiet();
  return TestWorkflowEnvironment.createLocal({
    server: {
      executable: { type: 'existing-path', path: await findTemporal() },
      searchAttributes: Object.values(walkeep.SEARCH_ATTRIBUTE),
      extraArgs: [...extraArgs],
    },
  });
}

let installed = false;
/** Only errors of Temporal's own are printed. */
export function quiet(): void {
  if (installed) return;
  installed = true;
  Runtime.install({ logger: new DefaultLogger('ERROR') });
}

let bundle: Promise<WorkflowBundle> | undefined;
/** The workflows, bundled once a test process. */
export function workflowBundle(): Promise<WorkflowBundle> {
  bundle ??= bundleWorkflowCode({
    workflowsPath: fileURLToPath(new URL('../../workflows/index.ts', import.meta.url)),
    logger: new DefaultLogger('ERROR'),
  });
  return bundle;
}

/** What is old would be a problem of its own. */
function justNow(): string {
  return new Date().toISOString().replace(/\.\d+Z$/, 'Z');
}

/** Quick enough for a test. */
export const QUICK: Pace = {
  heartbeat: 4,
  backoff: 0.2,
  backoffMaximum: 1,
  deadline: 60,
  attempts: 5,
  walDeadline: 5,
  archivingReport: 3600,
};

export function clusterManifest(name: string, spec: Record<string, unknown> = {}): ClusterManifest {
  return {
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'Cluster',
    metadata: { name, namespace: 'default' },
    spec: {
      backup: { barmanObjectStore: { destinationPath: 'file:///srv/backups' } },
      ...spec,
    },
  } as unknown as ClusterManifest;
}

export function backupManifest(name: string, cluster: string, spec: Record<string, unknown> = {}) {
  return {
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'Backup',
    metadata: { name, namespace: 'default' },
    spec: { cluster: { name: cluster }, ...spec },
  } as unknown as NonNullable<walkeep.ApplyInput['backups']>[number];
}

/** What outlives workers and Temporal in the tests: a repository and a host's state directory. */
export interface World {
  readonly outcomes: Map<string, BackupStatus>;
  readonly manifests: Map<
    string,
    { manifest: ClusterManifest; revision: number; besides?: Omit<Desire, 'cluster'> }
  >;
  /** Of slots and outcomes. */
  readonly repository: Repository;
  /** What happened, in order. */
  readonly story: string[];
}

export function newWorld(): World {
  const repository = createRepository(createMemoryStore(), 'test');
  return { outcomes: new Map(), manifests: new Map(), repository, story: [] };
}

export interface FakeInstance {
  readonly cluster: string;
  readonly instance: string;
  /** What it is at each moment it is asked. */
  readonly role?: InstanceRole | (() => InstanceRole);
  readonly host?: string;
  /** What it says of itself besides. */
  readonly facts?: Partial<walkeep.InstanceFacts>;
  readonly clusterPorts?: Partial<ClusterPorts>;
  readonly pace?: Partial<Pace>;
  readonly copy?: BaseBackupPorts['copy'];
  readonly backup?: Partial<BaseBackupPorts>;
  readonly archiving?: WalArchivingPorts['readArchiving'];
  readonly restore?: Partial<RestorePorts>;
  readonly audit?: Partial<AuditPorts>;
  readonly sweep?: Partial<RetentionSweepPorts>;
  readonly jobs?: JobRegistry;
  /** The ScheduledBackups in its state directory. */
  readonly schedules?: () => readonly ScheduledBackupManifest[];
  /** In the place of the repository; throws while that is away. */
  readonly repository?: () => Repository;
  /** Task queues besides its own, as `walkeep worker --queue` polls them. */
  readonly moreQueues?: readonly string[];
  /** Other workflows than those of today. */
  readonly bundle?: WorkflowBundle;
  /** Further activities, or others in the place of these. */
  readonly activities?: object;
  /** Only the given queues are polled. */
  readonly queues?: readonly ('workflows' | 'cluster' | 'instance')[];
}

export interface RunningInstance {
  stop(): Promise<void>;
  facts(): walkeep.InstanceFacts;
}

/** Workers as a real one runs them, with activities that record the story in `world`. */
export async function startInstance(
  address: { connection: NativeConnection; namespace?: string },
  world: World,
  fake: FakeInstance,
): Promise<RunningInstance> {
  const { cluster, instance } = fake;
  const state = () => world.manifests.get(`${instance}:default/${cluster}`);
  const facts = (): walkeep.InstanceFacts => {
    const stored = state();
    return {
      instance,
      role: typeof fake.role === 'function' ? fake.role() : (fake.role ?? 'primary'),
      host: fake.host ?? 'test',
      version: '0',
      searchAttributes: true,
      keepsBesides: true,
      ...(stored && {
        revision: stored.revision,
        fingerprint: desireFingerprint({
          cluster: stored.manifest,
          schedules: [],
          verifications: [],
          ...stored.besides,
        }),
      }),
      ...fake.facts,
    };
  };
  const clusterPorts: ClusterPorts = {
    readManifest: async () => state(),
    readHeld: async () => state()?.besides ?? { schedules: [], verifications: [] },
    writeManifest: async ({ manifest, revision, besides = state()?.besides }) => {
      world.story.push(`${instance}: store revision ${revision}`);
      const stored = { manifest, revision, ...(besides && { besides }) };
      world.manifests.set(`${instance}:default/${cluster}`, stored);
    },
    instanceFacts: async () => facts(),
    pace: { ...QUICK, ...fake.pace },
    ...fake.clusterPorts,
  };
  const askServer = async () => {
    await address.connection.withDeadline(Date.now() + 1_000, () =>
      address.connection.workflowService.getSystemInfo({}),
    );
  };
  const jobs = fake.jobs ?? new JobRegistry();
  const backupPorts: BaseBackupPorts = {
    jobs,
    askServer,
    findOutcome: async ({ backupName }) => world.outcomes.get(backupName),
    copy: async (input, options) => {
      world.story.push(`${instance}: copy ${input.backupName} attempt ${input.attempt}`);
      return fake.copy ? fake.copy(input, options) : copied(input.backupName);
    },
    confirm: async ({ copied: { backupId } }) => void world.story.push(`${instance}: confirm ${backupId}`),
    record: async ({ copied: { backupId }, backupName }) => {
      world.story.push(`${instance}: record ${backupId}`);
      return {
        phase: 'completed',
        method: 'barmanObjectStore',
        backupId,
        backupName,
        stoppedAt: justNow(),
      };
    },
    discard: async (_, backupId) => void world.story.push(`${instance}: discard ${backupId}`),
    writeOutcome: async ({ backupName, status }) => {
      world.story.push(`outcome ${backupName} ${status.phase}`);
      world.outcomes.set(backupName, status);
      const recordedAt = new Date().toISOString();
      await writeOutcome(
        world.repository,
        { version: 1, backupName, status: { ...status }, recordedAt },
        { mode: 'replace', signal: new AbortController().signal },
      );
    },
    ...fake.backup,
  };
  const restorePorts: RestorePorts = {
    jobs,
    askServer,
    targetState: async () => 'empty',
    plan: async () => {
      world.story.push(`${instance}: plan`);
      return PLANNED;
    },
    perform: async () => {
      world.story.push(`${instance}: restore`);
      return { ...RESTORED, instance };
    },
    ...fake.restore,
  };
  const nothingToSweep = {
    dryRun: true,
    at: justNow(),
    backups: [],
    wal: [],
    leftovers: [],
    warnings: [],
    counts: { kept: 0, marked: 0, waiting: 0, deletedBackups: 0, deletedWal: 0, deletedBytes: 0 },
  };
  const sweepPorts: RetentionSweepPorts = {
    jobs,
    askServer,
    plan: async () => {
      world.story.push(`${instance}: plan a sweep`);
      return { report: nothingToSweep, hasWork: false };
    },
    perform: async () => {
      world.story.push(`${instance}: sweep`);
      return { ...nothingToSweep, dryRun: false };
    },
    ...fake.sweep,
  };
  const clusterActivities = createClusterActivities(clusterPorts);
  const activities = {
    ...clusterActivities,
    ...createScheduleActivities({
      loadCluster: (reference) => clusterActivities.loadCluster(reference),
      readSchedule: async (_namespace, name) =>
        (fake.schedules?.() ?? state()?.besides?.schedules ?? []).find(
          (schedule) => schedule.metadata.name === name,
        ),
      withRepository: async (_manifest, work) => work(fake.repository?.() ?? world.repository),
      hasSearchAttributes: async () => true,
      schedules: scheduleService,
    }),
    ...createBaseBackupActivities(backupPorts),
    ...createControlActivities({ control: (key, control) => jobs.control(key, control) }),
    ...createWalArchivingActivities({
      readArchiving: fake.archiving ?? (async () => archiveReport(instance)),
    }),
    ...createRestoreActivities(restorePorts),
    ...createWalAuditActivities({
      jobs,
      askServer,
      audit: async () => emptyAudit(),
      repair: async () => [],
      ...fake.audit,
    }),
    ...createRetentionSweepActivities(sweepPorts),
    ...createHoldActivities({
      setHold: async ({ backupName, reason }) =>
        void world.story.push(`${instance}: ${reason === null ? 'release' : 'hold'} ${backupName}`),
    }),
    ...fake.activities,
  };
  const common = {
    connection: address.connection,
    namespace: address.namespace ?? 'default',
    shutdownGraceTime: 200,
    maxHeartbeatThrottleInterval: 500,
    interceptors: { activity: [failureInterceptor()] },
  };
  const queues = fake.queues ?? ['workflows', 'cluster', 'instance'];
  const workers = await Promise.all([
    ...(queues.includes('workflows')
      ? [
          Worker.create({
            ...common,
            taskQueue: walkeep.WORKFLOW_QUEUE,
            workflowBundle: fake.bundle ?? (await workflowBundle()),
            activities: createScheduleLookup(scheduleService),
            enableNonLocalActivities: false,
          }),
        ]
      : []),
    ...(queues.includes('cluster')
      ? [Worker.create({ ...common, taskQueue: walkeep.clusterQueue('default', cluster), activities })]
      : []),
    ...(queues.includes('instance')
      ? [
          Worker.create({
            ...common,
            taskQueue: walkeep.instanceQueue('default', cluster, instance),
            activities,
          }),
        ]
      : []),
    ...(fake.moreQueues ?? []).map((taskQueue) => Worker.create({ ...common, taskQueue, activities })),
  ]);
  const runs = workers.map((worker) => worker.run());
  return {
    facts,
    async stop() {
      for (const worker of workers) worker.shutdown();
      await Promise.all(runs);
    },
  };
}

const PLANNED = {
  plan: {
    version: 1,
    backupId: '20260124T020000',
    targetTimeline: 1,
    endsAt: 'the end of the archive',
    excluded: [],
    warnings: [],
  },
  sourceUrl: 'file:///srv/backups',
} as unknown as Awaited<ReturnType<RestorePorts['plan']>>;

const RESTORED = {
  backupId: '20260124T020000',
  sourceUrl: 'file:///srv/backups',
  targetTimeline: 1,
  endsAt: 'the end of the archive',
  targetDirectory: '/data',
  files: 1,
  contentBytes: 1,
  storedBytes: 1,
  isVerified: true,
  warnings: [],
};

export function archiveReport(
  instance: string,
  more: Partial<walkeep.ArchiveReport> = {},
): walkeep.ArchiveReport {
  return {
    instance,
    role: 'primary',
    at: justNow(),
    health: 'working',
    archivedCount: 3,
    failedCount: 0,
    waitingFiles: 0,
    waitingBytes: 0,
    ...more,
  };
}

/** An archive with nothing in it. */
export function emptyAudit(more: Partial<AuditReport> = {}): AuditReport {
  return {
    at: justNow(),
    intervals: [],
    damages: [],
    backups: 0,
    segments: 0,
    walBytes: 0,
    segmentsRead: 0,
    needsBackup: false,
    warnings: [],
    ...more,
  };
}

let copies = 0;
export function copied(backupName: string): Awaited<ReturnType<BaseBackupPorts['copy']>> {
  copies += 1;
  const second = String(copies % 60).padStart(2, '0');
  return {
    backupId: `20261124T0200${second}`,
    backupName,
    beginLsn: '0/2000028',
    endLsn: '0/3000000',
    beginWal: '000000010000000000000002',
    endWal: '000000010000000000000002',
    timeline: 1,
    systemId: '7300000000000000001',
    beginTime: justNow(),
    endTime: justNow(),
    segmentSize: 16 * 1024 * 1024,
    postgresVersion: 150000,
    fromStandby: false,
    bytes: 1,
    storedBytes: 1,
    files: 1,
    pageChecksumFailures: 0,
  };
}

/** The patches that a run has recorded, by name. */
export function marksOf(history: Awaited<ReturnType<WorkflowHandle['fetchHistory']>>): string[] {
  return (history.events ?? []).flatMap(({ markerRecordedEventAttributes: marker }) => {
    const [payload] = marker?.details?.['patch-data']?.payloads ?? [];
    return payload?.data ? [(JSON.parse(Buffer.from(payload.data).toString()) as { id: string }).id] : [];
  });
}

/** Resolves when `holds` does; fails with `what` after `ms`. */
export async function eventually(
  what: string,
  holds: () => boolean | Promise<boolean>,
  ms = 20_000,
): Promise<void> {
  const until = Date.now() + ms;
  while (!(await holds())) {
    if (Date.now() > until) throw new Error(`did not come true: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A signal to hold a fake copy open until a test lets it go; an abort ends it. */
export function gate(): { open(): void; passed(signal: AbortSignal): Promise<void> } {
  let open = () => {};
  const opened = new Promise<void>((resolve) => (open = resolve));
  return {
    open: () => open(),
    passed: (signal) =>
      new Promise((resolve, reject) => {
        void opened.then(resolve);
        signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
      }),
  };
}
