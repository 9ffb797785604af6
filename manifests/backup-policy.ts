import { z } from 'zod';
import { isTimezone } from '../core/cron.ts';
import { durationText, flag, objectName, plainText, textThat } from './fields.ts';
import { metadataSchema } from './metadata.ts';
import { show, type Finding } from './problem.ts';

export const WALKEEP_API = 'walkeep.io/v1';

const count = z.int().min(0).max(100_000);

/** How many backups of which age a policy keeps. */
const keepRules = {
  keepLast: count,
  daily: count,
  weekly: count,
  monthly: count,
  yearly: count,
};

const timezone = textThat((text) =>
  isTimezone(text)
    ? undefined
    : {
        message: `${show(text)} is no time zone`,
        fix: 'write an IANA name, such as Europe/Berlin or Etc/UTC',
      },
);

const rate = textThat((text) =>
  /^\d+(\.\d+)?\s?([kKMGT]i?)?B(\/s)?$/.test(text)
    ? undefined
    : { message: `${show(text)} is no rate`, fix: 'write bytes a second, such as 100MB/s or 64MiB/s' },
);

const objectives = z.object({
  rpo: durationText.default('10m'),
  backupAge: durationText.default('26h'),
  provenAge: durationText.default('8d'),
});

const attempts = z.object({
  maximum: z.int().min(1).max(1000).default(5),
  backoff: durationText.default('1m'),
  deadline: durationText.default('12h'),
});

const retention = z.object({
  keepLast: keepRules.keepLast.default(7),
  daily: keepRules.daily.default(7),
  weekly: keepRules.weekly.default(4),
  monthly: keepRules.monthly.default(12),
  yearly: keepRules.yearly.default(3),
  minimum: z.int().min(1).max(100_000).default(2),
  schedules: z.record(objectName, z.object(keepRules).partial()).default({}),
  onlyWithProvenSuccessor: flag.default(false),
  grace: durationText.default('24h'),
  queue: plainText.nullable().default(null),
  timezone: timezone.default('Etc/UTC'),
});

const limits = z.object({
  maxRate: rate.nullable().default(null),
  jobs: z.int().min(1).max(1024).nullable().default(null),
  nice: z.int().min(0).max(19).default(10),
});

/** walkeep's BackupPolicy: objectives, attempts, retention and limits of clusters. Its defaults hold without one. */
export const backupPolicySchema = z.object({
  apiVersion: z.literal(WALKEEP_API),
  kind: z.literal('BackupPolicy'),
  metadata: metadataSchema,
  spec: z.object({
    clusters: z.array(objectName).min(1),
    objectives: objectives.prefault({}),
    attempts: attempts.prefault({}),
    retention: retention.prefault({}),
    limits: limits.prefault({}),
  }),
});
export type BackupPolicyManifest = z.infer<typeof backupPolicySchema>;

/** The rules of a BackupPolicy that concern more than one field. */
export function reviewBackupPolicy({ spec }: BackupPolicyManifest): Finding[] {
  const twice = spec.clusters.flatMap((name, index) => (spec.clusters.indexOf(name) < index ? [index] : []));
  return twice.map((index) => ({
    path: ['spec', 'clusters', index],
    message: `${show(spec.clusters[index] ?? '')} is listed twice`,
    fix: 'remove one',
    severity: 'error' as const,
  }));
}
