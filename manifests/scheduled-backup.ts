import { z } from 'zod';
import { backupFields, reviewMethod } from './backup.ts';
import { CNPG_API } from './cluster.ts';
import { flag } from './fields.ts';
import { metadataSchema } from './metadata.ts';
import type { Finding } from './problem.ts';
import { reviewSchedule } from './schedule.ts';

/** A CNPG ScheduledBackup. Its runs are named after the due time, so that a slot has at most one Backup. */
export const scheduledBackupSchema = z.object({
  apiVersion: z.literal(CNPG_API),
  kind: z.literal('ScheduledBackup'),
  metadata: metadataSchema,
  spec: z.object({
    ...backupFields,
    schedule: z.string(),
    suspend: flag.default(false),
    immediate: flag.default(false),
    backupOwnerReference: z.enum(['none', 'self', 'cluster']).optional(),
  }),
});
export type ScheduledBackupManifest = z.infer<typeof scheduledBackupSchema>;

/** The rules of a ScheduledBackup, with its next runs. */
export function reviewScheduledBackup(manifest: ScheduledBackupManifest, now: Date): Finding[] {
  const { spec } = manifest;
  const findings = [...reviewSchedule(manifest, now, ['spec', 'schedule']), ...reviewMethod(spec, ['spec'])];
  if (spec.backupOwnerReference === 'none') {
    findings.push({
      path: ['spec', 'backupOwnerReference'],
      message:
        '"none" does not keep backups for ever: it only says who owns the Backup object; retention deletes as ever',
      fix: 'to keep a backup put walkeep.io/hold: REASON on it; to keep more of them, rules in a BackupPolicy or a longer retentionPolicy',
      severity: 'warning',
    });
  }
  return findings;
}
