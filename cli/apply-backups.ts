import { WorkflowExecutionAlreadyStartedError } from '@temporalio/client';
import { BackupError } from '../core/errors.ts';
import type { BackupManifest } from '../manifests/backup.ts';
import { methodOf } from '../manifests/barman-plugin.ts';
import {
  backupWorkflowId,
  WORKFLOW,
  WORKFLOW_QUEUE,
  type ApplyInput,
  type BaseBackupInput,
} from '../workflows/interface.ts';
import { holdOf } from '../workflows/keeper-holds.ts';
import { RESOURCE, say } from './resource-lines.ts';
import type { TemporalClient } from './temporal-client.ts';

/**
 * Without its keeper a Backup is taken, but nobody places the hold that it asks for.
 *
 * @throws BackupError `manifest-invalid` for a Backup with a hold when no Cluster comes with it
 */
export function refuseUnheldBackups(
  { namespace, cluster }: { readonly namespace: string; readonly cluster: string },
  { cluster: manifest, backups = [] }: ApplyInput,
): void {
  const held = backups.find((backup) => holdOf(backup) !== undefined);
  if (manifest !== undefined || held === undefined) return;
  throw new BackupError(
    'manifest-invalid',
    `Backup "${held.metadata.name}": field "metadata.annotations": no keeper of ${namespace}/${cluster} runs, which would make walkeep.io/hold true`,
    {
      hint: 'apply the Cluster first, or with it; or take the backup without the annotation, and annotate it then',
    },
  );
}

/** Backups of a cluster that is not applied yet: they wait, visibly, for its worker, and fail after their deadline. */
export async function startBackups(
  temporal: TemporalClient,
  namespace: string,
  cluster: string,
  backups: readonly BackupManifest[],
): Promise<void> {
  for (const { metadata, spec } of backups) {
    const input: BaseBackupInput = {
      cluster,
      namespace,
      name: metadata.name,
      method: methodOf(spec),
      waitForWorkerSeconds: 12 * 3600,
      ...(spec.target !== undefined && { target: spec.target }),
    };
    const outcome = await temporal.call(`start the Backup ${metadata.name}`, (client) =>
      client.workflow
        .start(WORKFLOW.baseBackup, {
          workflowId: backupWorkflowId(namespace, metadata.name),
          taskQueue: WORKFLOW_QUEUE,
          args: [input],
          workflowIdReusePolicy: 'REJECT_DUPLICATE',
          staticSummary: `base backup of ${namespace}/${cluster}`,
        })
        .then(
          () => `created; it waits for the cluster ${cluster}`,
          (error: unknown) => {
            if (error instanceof WorkflowExecutionAlreadyStartedError) return 'unchanged';
            throw error;
          },
        ),
    );
    say(RESOURCE.Backup, metadata.name, outcome);
  }
}
