/**
 * Records the histories that test/workflows/replay.test.ts replays: one per workflow and path, from the real server.
 * Run it for a release, and keep what earlier releases recorded: runs of theirs may still be open when new code comes.
 *
 *   node scripts/record-histories.ts [PREFIX]     writes test/histories/PREFIX-<path>.json (default: the version)
 */
import { WithStartWorkflowOperation, type WorkflowHandle } from '@temporalio/client';
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js';
import { mkdir, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { fileURLToPath } from 'node:url';
import { createRestoreVerificationActivities } from '../activities/restore-verification.ts';
import { BackupError } from '../core/errors.ts';
import type { SweepReport } from '../core/sweep-report.ts';
import type { Verification } from '../core/verification.ts';
import { JobRegistry } from '../operations/job-registry.ts';
import { walkeepVersion } from '../repository/walkeep-version.ts';
import { scheduledBackupSchema } from '../manifests/scheduled-backup.ts';
import {
  archiveReport,
  backupManifest,
  clusterManifest,
  copied,
  eventually,
  gate,
  newWorld,
  startInstance,
  startTemporal,
} from '../test/workflows/fake-cluster.ts';
import * as walkeep from '../workflows/interface.ts';

const folder = fileURLToPath(new URL('../test/histories/', import.meta.url));
const root = fileURLToPath(new URL('..', import.meta.url));
const prefix = process.argv[2] ?? walkeepVersion();
await mkdir(folder, { recursive: true });

const temporal = await startTemporal();
const { client } = temporal;
const world = newWorld();
let health: walkeep.ArchiveHealth = 'working';
const held = gate();
const AT = new Date().toISOString();
const worker = await startInstance({ connection: temporal.nativeConnection }, world, {
  cluster: 'recorded',
  instance: 'recorded-1',
  pace: { archivingReport: 2 },
  archiving: async () => archiveReport('recorded-1', { health }),
  sweep: { plan: async () => ({ report: emptySweep(), hasWork: true }), perform: async () => emptySweep() },
  activities: createRestoreVerificationActivities({
    jobs: new JobRegistry(),
    askServer: async () => {},
    findRules: async () => undefined,
    verify: async ({ request }) => ({ verification: verified(request), mayTryAgain: false }),
    record: async () => {},
  }),
  copy: async ({ backupName, attempt }, { signal }) => {
    if (backupName === 'cancelled') await held.passed(signal);
    if (backupName === 'retried' && attempt < 3)
      throw new BackupError('store-unavailable', 'the store does not answer');
    if (backupName === 'failed') throw new BackupError('postgres-denied', 'no rights');
    return copied(backupName);
  },
});

function emptySweep(): SweepReport {
  const counts = { kept: 1, marked: 0, waiting: 0, deletedBackups: 0, deletedWal: 0, deletedBytes: 0 };
  return { dryRun: false, at: AT, backups: [], wal: [], leftovers: [], warnings: [], counts };
}

function verified({
  id,
  namespace,
  cluster,
}: {
  id: string;
  namespace: string;
  cluster: string;
}): Verification {
  return {
    version: 1,
    id,
    namespace,
    cluster,
    result: 'verified',
    startedAt: AT,
    endedAt: AT,
    host: 'host',
    instance: 'recorded-1',
    backupId: '20261124T020000',
    target: { kind: 'end' },
    walkeepVersion: '0',
    checks: [{ name: 'target', result: 'passed' }],
    warnings: [],
  };
}

/** Workflows that end by themselves, with what a person would start them with. */
const ORCHESTRATED = [
  [walkeep.WORKFLOW.scheduledBackup, 'scheduled-by-hand', { cluster: 'recorded' }],
  [walkeep.WORKFLOW.retentionSweep, walkeep.sweepWorkflowId('default', 'by-hand'), { cluster: 'recorded' }],
  [walkeep.WORKFLOW.walAudit, walkeep.auditWorkflowId('default', 'by-hand'), { cluster: 'recorded' }],
  [
    walkeep.WORKFLOW.restoreVerification,
    walkeep.verificationWorkflowId('default', 'recorded', 'by-hand'),
    { cluster: 'recorded' },
  ],
] as const;

async function save(name: string, handle: WorkflowHandle): Promise<void> {
  const history = await handle.fetchHistory();
  // What tells of the machine it was recorded on is of no use to a replay.
  const text = historyToJSON(history)
    .replaceAll(root, '/walkeep/')
    .replaceAll(`@${hostname()}"`, '@host"')
    .replaceAll(`@${hostname()}-`, '@host-');
  await writeFile(`${folder}${prefix}-${name}.json`, `${text}\n`);
  process.stdout.write(`${prefix}-${name}.json: ${history.events?.length ?? 0} events\n`);
}

async function start(type: string, workflowId: string, input: unknown): Promise<WorkflowHandle> {
  return client.workflow.start(type, { taskQueue: walkeep.WORKFLOW_QUEUE, workflowId, args: [input] });
}

try {
  const keeperId = walkeep.clusterWorkflowId('default', 'recorded');
  const input: walkeep.ApplyInput = {
    cluster: clusterManifest('recorded'),
    backups: [backupManifest('applied', 'recorded'), backupManifest('applied-next', 'recorded')],
    scheduledBackups: [
      scheduledBackupSchema.parse({
        apiVersion: 'postgresql.cnpg.io/v1',
        kind: 'ScheduledBackup',
        metadata: { name: 'recorded-nightly' },
        spec: { schedule: '0 0 2 * * *', cluster: { name: 'recorded' } },
      }),
    ],
  };
  const apply = () =>
    client.workflow.executeUpdateWithStart(walkeep.applyUpdate, {
      args: [input],
      startWorkflowOperation: new WithStartWorkflowOperation(walkeep.WORKFLOW.cluster, {
        workflowId: keeperId,
        taskQueue: walkeep.WORKFLOW_QUEUE,
        workflowIdConflictPolicy: 'USE_EXISTING',
        args: [clusterManifest('recorded')],
      }),
    });
  await apply();
  const keeper = client.workflow.getHandle(keeperId);
  await eventually('both backups ended', async () => {
    const { backups } = await keeper.query(walkeep.clusterStatusQuery);
    return backups.filter((backup) => backup.phase === 'completed').length === 2;
  });
  await apply();

  for (const name of ['retried', 'failed', 'cancelled']) {
    const handle = await start(walkeep.WORKFLOW.baseBackup, walkeep.backupWorkflowId('default', name), {
      cluster: 'recorded',
    });
    if (name === 'cancelled') {
      await eventually('the copy runs', () => world.story.some((line) => line.includes('copy cancelled')));
      await handle.cancel();
    }
    await handle.result().catch(() => {});
    await save(`base-backup-${name}`, handle);
  }
  await save(
    'base-backup-completed',
    client.workflow.getHandle(walkeep.backupWorkflowId('default', 'applied')),
  );
  await start(walkeep.WORKFLOW.baseBackup, 'backup/default/refused', { cluster: 7 }).then(async (handle) => {
    await handle.result().catch(() => {});
    await save('base-backup-refused', handle);
  });
  const restore = await start(walkeep.WORKFLOW.restore, walkeep.restoreWorkflowId('default', 'recorded'), {
    cluster: 'recorded',
    source: 'origin',
  });
  await restore.result();
  await save('restore-completed', restore);

  for (const [type, id, given] of ORCHESTRATED) {
    const handle = await start(type, id, given);
    await handle.result();
    await save(`${type.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}-completed`, handle);
  }

  const archiving = client.workflow.getHandle(walkeep.walArchivingWorkflowId('default', 'recorded'));
  health = 'failing';
  await eventually(
    'archiving fails',
    async () => (await archiving.query(walkeep.archivingQuery))?.health === 'failing',
  );
  await save('wal-archiving-running', archiving);
  await save('cluster-running', keeper);
  await keeper.cancel();
  await keeper.result().catch(() => {});
  await archiving.result().catch(() => {});
  await save('cluster-cancelled', keeper);
  await save('wal-archiving-cancelled', archiving);
} finally {
  await worker.stop();
  await temporal.teardown();
}
