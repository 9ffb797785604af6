import { z } from 'zod';
import { BARMAN_PLUGIN } from './barman-plugin.ts';
import { backupTarget, CNPG_API, onlineConfiguration } from './cluster.ts';
import { flag, objectName, plainText, textMap } from './fields.ts';
import { metadataSchema } from './metadata.ts';
import { show, type FieldPath, type Finding } from './problem.ts';
import { BACKUP_ID } from './recovery.ts';

export const BACKUP_METHODS = ['barmanObjectStore', 'volumeSnapshot', 'plugin'] as const;

/** What Backup and ScheduledBackup say alike about a backup. */
export const backupFields = {
  cluster: z.object({ name: objectName }),
  /** Without it the cluster's `spec.backup.target`. */
  target: backupTarget.optional(),
  method: z.enum(BACKUP_METHODS).default('barmanObjectStore'),
  pluginConfiguration: z.object({ name: plainText, parameters: textMap.default({}) }).optional(),
  online: flag.optional(),
  onlineConfiguration: onlineConfiguration.optional(),
};

/** A CNPG Backup: one backup, taken once, whatever is applied later under its name. */
export const backupSchema = z.object({
  apiVersion: z.literal(CNPG_API),
  kind: z.literal('Backup'),
  metadata: metadataSchema,
  spec: z.object(backupFields),
});
export type BackupManifest = z.infer<typeof backupSchema>;

/** Names barman gives another meaning: `barman-cloud-restore … latest` would never find a backup called so. */
const BARMAN_ALIASES: readonly string[] = [
  'auto',
  'first',
  'last',
  'last-failed',
  'last-full',
  'latest',
  'latest-full',
  'oldest',
];

/** The rules of a Backup that concern more than one field. */
export function reviewBackup(backup: BackupManifest): Finding[] {
  return [
    ...reviewBackupName(backup.metadata.name, ['metadata', 'name']),
    ...reviewMethod(backup.spec, ['spec']),
  ];
}

function reviewBackupName(name: string, path: FieldPath): Finding[] {
  if (!BARMAN_ALIASES.includes(name) && !BACKUP_ID.test(name.toUpperCase())) return [];
  const message = `${show(name)} can not be the name of a backup: barman takes it for ${
    BARMAN_ALIASES.includes(name) ? 'a word of its own' : 'the id of one'
  }`;
  return [
    { path, message, fix: 'give it another name, such as before-migration-20260121', severity: 'error' },
  ];
}

/** What a Backup's or ScheduledBackup's method needs and rules out. */
export function reviewMethod(
  spec: Pick<BackupManifest['spec'], 'method' | 'pluginConfiguration' | 'online' | 'onlineConfiguration'>,
  path: FieldPath,
): Finding[] {
  const at = [...path, 'method'];
  switch (spec.method) {
    case 'barmanObjectStore':
      return (['online', 'onlineConfiguration'] as const)
        .filter((name) => spec[name] !== undefined)
        .map((name) => ({
          path: [...path, name],
          message: `${name} belongs to method volumeSnapshot; this one is barmanObjectStore, which is always online`,
          fix: `remove ${name}${name === 'onlineConfiguration' ? '; for a fast checkpoint set backup.barmanObjectStore.data.immediateCheckpoint of the Cluster' : ''}`,
          severity: 'error' as const,
        }));
    case 'volumeSnapshot':
      return [
        {
          path: at,
          message: 'accepted; outside Kubernetes a backup by volumeSnapshot fails at once and says so',
          fix: 'write barmanObjectStore, or leave method out',
          severity: 'warning',
        },
      ];
    case 'plugin':
      return spec.pluginConfiguration
        ? reviewPlugin(spec.pluginConfiguration, path)
        : [
            {
              path,
              message: 'method plugin needs pluginConfiguration',
              fix: 'add pluginConfiguration: {name: PLUGIN}',
              severity: 'error',
            },
          ];
  }
}

function reviewPlugin(
  { name, parameters }: NonNullable<BackupManifest['spec']['pluginConfiguration']>,
  path: FieldPath,
): Finding[] {
  if (name !== BARMAN_PLUGIN) {
    const message = `accepted, but walkeep runs no plugins: a backup by ${show(name)} fails at once and says so`;
    const fix = `write barmanObjectStore, or the plugin ${BARMAN_PLUGIN}`;
    return [{ path: [...path, 'method'], message, fix, severity: 'warning' }];
  }
  if (Object.keys(parameters).length === 0) return [];
  const message = 'are left aside: the Cluster says in which ObjectStore its backups are';
  const at = [...path, 'pluginConfiguration', 'parameters'];
  return [{ path: at, message, fix: 'remove them', severity: 'warning' }];
}
