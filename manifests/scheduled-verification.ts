import { z } from 'zod';
import { WALKEEP_API } from './backup-policy.ts';
import { durationText, flag, objectName, percentageText, plainText, textThat } from './fields.ts';
import { metadataSchema } from './metadata.ts';
import { show, type Finding } from './problem.ts';
import { BACKUP_ID, recoveryTargetSchema, reviewRecoveryTarget } from './recovery.ts';
import { reviewSchedule } from './schedule.ts';

const BACKUP_CHOICES = ['latest', 'oldest', 'random', 'stalest'];

const backupChoice = textThat((text) =>
  BACKUP_CHOICES.includes(text) || BACKUP_ID.test(text)
    ? undefined
    : {
        message: `${show(text)} chooses no backup`,
        fix: `write ${BACKUP_CHOICES.join(', ')}, or a backup id such as 20260121T020000`,
      },
);

const directory = textThat((text) =>
  text.startsWith('/') && !text.split('/').includes('..')
    ? undefined
    : {
        message: `${show(text)} is no absolute directory`,
        fix: 'write it from the root, such as /srv/scratch',
      },
);

const query = z.object({ database: plainText, sql: z.string().min(1), expect: z.string() });

const checks = z.object({
  manifest: flag.default(true),
  pageChecksums: flag.default(true),
  amcheck: z
    .preprocess(
      (value) => (value === 'off' || value === 'no' ? false : value),
      z.literal([false, 'sample', 'full']),
    )
    .default(false),
  queries: z.array(query).default([]),
});

/** walkeep's ScheduledVerification: restores a backup on a schedule and proves that it works. */
export const scheduledVerificationSchema = z.object({
  apiVersion: z.literal(WALKEEP_API),
  kind: z.literal('ScheduledVerification'),
  metadata: metadataSchema,
  spec: z.object({
    cluster: z.object({ name: objectName }),
    schedule: z.string(),
    suspend: flag.default(false),
    backup: backupChoice.default('latest'),
    target: z.union([z.literal(['end', 'random']), recoveryTargetSchema]).default('end'),
    checks: checks.prefault({}),
    readBudget: percentageText.nullable().default('20%'),
    queue: plainText.nullable().default(null),
    scratch: z
      .object({ directory: directory.nullable().default(null), minFree: percentageText.default('20%') })
      .prefault({}),
    deadline: durationText.default('6h'),
  }),
});
export type ScheduledVerificationManifest = z.infer<typeof scheduledVerificationSchema>;

/** The rules of a ScheduledVerification, with its next runs. */
export function reviewScheduledVerification(manifest: ScheduledVerificationManifest, now: Date): Finding[] {
  const { target } = manifest.spec;
  // The verification chooses its own backup, so a target never has to name one.
  const options = { backupIsNamed: 'by snapshots' } as const;
  const findings = reviewSchedule(manifest, now, ['spec', 'schedule']);
  if (typeof target === 'string') return findings;
  return [...findings, ...reviewRecoveryTarget(target, ['spec', 'target'], options)];
}
