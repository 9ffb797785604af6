import type { ScheduleFacts } from '../activities/schedules.ts';
import type { BackupManifest } from '../manifests/backup.ts';
import { methodOf } from '../manifests/barman-plugin.ts';
import { CNPG_API } from '../manifests/cluster.ts';
import type { ScheduledBackupManifest } from '../manifests/scheduled-backup.ts';
import type { BackupTarget, BaseBackupInput, OwnerReference } from './interface.ts';

/** The one annotation that CloudNativePG hands on without being configured to. */
const INHERITED_ANNOTATION = 'cnpg.io/volumeSnapshotDeadline';

/** The Backup of a slot, as CloudNativePG makes it of a ScheduledBackup; of a cluster alone, as its `kubectl` plugin does. */
export function slotBackupInput(
  request: {
    readonly cluster: string;
    readonly namespace: string;
    readonly immediate: boolean;
    readonly method?: BackupManifest['spec']['method'] | undefined;
    readonly target?: BackupTarget | undefined;
  },
  { schedule, cluster: facts }: ScheduleFacts,
  backupName: string,
): BaseBackupInput {
  const { cluster, namespace, immediate } = request;
  const method = schedule ? methodOf(schedule.spec) : request.method;
  const target = schedule ? schedule.spec.target : request.target;
  return {
    cluster,
    namespace,
    name: backupName,
    ...(method && { method }),
    ...(target && { target }),
    // It is wanted until its own deadline, and no worker may be there for a while.
    waitForWorkerSeconds: facts.pace.deadline,
    labels: {
      'cnpg.io/cluster': cluster,
      ...(schedule && {
        'cnpg.io/immediateBackup': String(immediate),
        'cnpg.io/scheduled-backup': schedule.metadata.name,
      }),
    },
    annotations: schedule ? inherited(schedule) : {},
    ownerReferences: schedule ? ownersOf(schedule) : [],
  };
}

function inherited({ metadata }: ScheduledBackupManifest): Record<string, string> {
  const value = metadata.annotations[INHERITED_ANNOTATION];
  return value === undefined ? {} : { [INHERITED_ANNOTATION]: value };
}

function ownersOf({ metadata, spec }: ScheduledBackupManifest): OwnerReference[] {
  const owner = { apiVersion: CNPG_API, controller: true };
  switch (spec.backupOwnerReference ?? 'none') {
    case 'none':
      return [];
    case 'self':
      return [{ ...owner, kind: 'ScheduledBackup', name: metadata.name }];
    case 'cluster':
      return [{ ...owner, kind: 'Cluster', name: spec.cluster.name }];
  }
}
