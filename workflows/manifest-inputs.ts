import { z } from 'zod';
import { backupSchema, reviewBackup } from '../manifests/backup.ts';
import { backupPolicySchema, reviewBackupPolicy } from '../manifests/backup-policy.ts';
import { clusterSchema, reviewCluster, type ClusterManifest } from '../manifests/cluster.ts';
import { reviewReferences, reviewUnresolved } from '../manifests/object-store-references.ts';
import { formatPath, hasErrors, type Finding } from '../manifests/problem.ts';
import { reviewScheduledBackup, scheduledBackupSchema } from '../manifests/scheduled-backup.ts';
import {
  reviewScheduledVerification,
  scheduledVerificationSchema,
} from '../manifests/scheduled-verification.ts';
import { failure } from './failures.ts';
import type { ApplyInput } from './interface.ts';

const applyInput = z.strictObject({
  cluster: z.unknown().optional(),
  backups: z.array(z.unknown()).max(50).nullish(),
  scheduledBackups: z.array(z.unknown()).max(50).nullish(),
  policy: z.unknown().optional(),
  verifications: z.array(z.unknown()).max(50).nullish(),
  remove: z
    .array(
      z.strictObject({
        kind: z.enum(['ScheduledBackup', 'BackupPolicy', 'ScheduledVerification']),
        name: z.string().min(1).max(253),
      }),
    )
    .max(50)
    .nullish(),
});

/**
 * A Cluster from outside, without what walkeep does not act on.
 *
 * @throws ApplicationFailure `manifest-invalid`, not retryable, naming the field
 */
export function parseClusterInput(raw: unknown): ClusterManifest {
  const manifest = parse(clusterSchema, raw, 'cluster', []);
  refuseErrors(reviewCluster(manifest), 'cluster');
  return manifest;
}

/** @throws ApplicationFailure `manifest-invalid` | `input-invalid`, not retryable, naming the field */
export function parseApplyInput(raw: unknown): ApplyInput {
  const input = parse(applyInput, raw, 'apply', []);
  // What is due when is of no interest here: only whether it can be.
  const now = new Date(0);
  const list = <Manifest>(
    field: 'backups' | 'scheduledBackups' | 'verifications',
    schema: z.ZodType<Manifest>,
    review: (manifest: Manifest) => readonly Finding[],
  ): Manifest[] =>
    (input[field] ?? []).map((item, index) => {
      const manifest = parse(schema, item, 'apply', [field, index]);
      refuseErrors(review(manifest), `${field}[${index}]`);
      return manifest;
    });
  const scheduledBackups = list('scheduledBackups', scheduledBackupSchema, (manifest) =>
    reviewScheduledBackup(manifest, now),
  );
  const verifications = list('verifications', scheduledVerificationSchema, (manifest) =>
    reviewScheduledVerification(manifest, now),
  );
  const policy = isGiven(input.policy)
    ? parse(backupPolicySchema, input.policy, 'apply', ['policy'])
    : undefined;
  if (policy) refuseErrors(reviewBackupPolicy(policy), 'policy');
  return {
    ...(isGiven(input.cluster) && { cluster: parseClusterInput(input.cluster) }),
    backups: list('backups', backupSchema, reviewBackup),
    ...(scheduledBackups.length > 0 && { scheduledBackups }),
    ...(verifications.length > 0 && { verifications }),
    ...(policy && { policy }),
    ...(input.remove && { remove: input.remove }),
  };
}

/**
 * A Cluster that refers to ObjectStores came without what they say, or refers in a way that can't be right. Runs of older
 * code took such a Cluster, so it is asked before a new one is taken, and not where a run is replayed.
 *
 * @throws ApplicationFailure `manifest-invalid`, not retryable, naming the field
 */
export function refuseUnresolved(manifest: ClusterManifest | undefined): void {
  if (manifest) refuseErrors(referenceFindings(manifest), 'cluster');
}

/** Whether `refuseUnresolved` refuses it. */
export function isUnresolved(manifest: ClusterManifest): boolean {
  return hasErrors(referenceFindings(manifest));
}

function referenceFindings(manifest: ClusterManifest): Finding[] {
  return [...reviewReferences(manifest), ...reviewUnresolved(manifest)];
}

function isGiven(value: unknown): boolean {
  return value !== undefined && value !== null;
}

function parse<Output>(
  schema: z.ZodType<Output>,
  raw: unknown,
  what: string,
  prefix: readonly (string | number)[],
): Output {
  const parsed = schema.safeParse(raw);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const path = [
    ...prefix,
    ...(issue?.path ?? []).map((step) => (typeof step === 'number' ? step : String(step))),
  ];
  const field = path.length > 0 ? `field "${formatPath(path)}"` : 'the input';
  throw failure('manifest-invalid', `${what}: ${field}: ${issue?.message ?? 'is not valid'}`);
}

function refuseErrors(findings: readonly Finding[], what: string): void {
  const found = findings.find((finding) => finding.severity === 'error');
  if (!found) return;
  throw failure(
    'manifest-invalid',
    `${what}: field "${formatPath(found.path)}": ${found.message}`,
    found.fix || undefined,
  );
}
