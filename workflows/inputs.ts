import { z } from 'zod';
import { BACKUP_METHODS, backupSchema, reviewBackup } from '../manifests/backup.ts';
import { CNPG_API } from '../manifests/cluster.ts';
import { formatPath } from '../manifests/problem.ts';
import { recoveryTargetSchema, reviewRecoveryTarget } from '../manifests/recovery.ts';
import { failure } from './failures.ts';
import type {
  BaseBackupInput,
  RestoreInput,
  RestoreVerificationInput,
  RetentionSweepInput,
  ScheduledBackupInput,
  WalArchivingInput,
  WalAuditInput,
} from './interface.ts';
import { DEFAULT_NAMESPACE } from './interface.ts';

/** Names as Kubernetes has them: they become parts of ids, queues and object keys. */
const objectName = z
  .string()
  .max(253)
  .regex(
    /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/,
    'expected lower-case letters, digits, "-" and ".", like "production-postgres"',
  );
const instanceName = z
  .string()
  .max(253)
  .regex(/^[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?$/, 'expected letters, digits, "-", "." and "_"');
const seconds = z
  .number()
  .positive()
  .max(365 * 86_400);
const reference = { cluster: objectName, namespace: objectName.default(DEFAULT_NAMESPACE) };

/** Labels or annotations; bounded, since they go on into activities and the outcome. */
const texts = z
  .record(z.string().max(317), z.string().max(4_096))
  .refine((record) => JSON.stringify(record).length <= 8_192, 'more than 8 KiB');
const ownerReference = z.object({
  apiVersion: z.string().min(1).max(253),
  kind: z.string().min(1).max(63),
  name: z.string().min(1).max(253),
  uid: z.string().min(1).max(253).exactOptional(),
  controller: z.boolean().default(true),
});

const baseBackupInput = z.strictObject({
  ...reference,
  name: objectName.optional(),
  method: z.enum(BACKUP_METHODS).default('barmanObjectStore'),
  target: z.enum(['primary', 'prefer-standby']).optional(),
  immediateCheckpoint: z.boolean().optional(),
  waitForWorkerSeconds: seconds.optional(),
  labels: texts.optional(),
  annotations: texts.optional(),
  ownerReferences: z.array(ownerReference).max(20).optional(),
});

const walArchivingInput = z.strictObject(reference);

const walAuditInput = z.strictObject({
  ...reference,
  repair: z.boolean().default(true),
  read: z.enum(['none', 'new', 'all']).default('new'),
});

const scheduledBackupInput = z
  .strictObject({
    scheduledBackup: objectName.optional(),
    cluster: objectName.optional(),
    namespace: objectName.default(DEFAULT_NAMESPACE),
    immediate: z.boolean().default(false),
    method: z.enum(BACKUP_METHODS).optional(),
    target: z.enum(['primary', 'prefer-standby']).optional(),
  })
  .refine((input) => input.scheduledBackup !== undefined || input.cluster !== undefined, {
    path: ['scheduledBackup'],
    message: 'expected a ScheduledBackup, or a cluster',
  });

const retentionSweepInput = z.strictObject({ ...reference, dryRun: z.boolean().default(false) });

const recoveryTarget = z.strictObject({ ...recoveryTargetSchema.shape, backupID: z.string().optional() });

const restoreVerificationInput = z.strictObject({
  ...reference,
  scheduledVerification: objectName.optional(),
  backup: z.string().min(1).max(253).optional(),
  target: z.union([z.enum(['end', 'random']), recoveryTarget]).optional(),
  checks: z
    .strictObject({
      manifest: z.boolean().exactOptional(),
      pageChecksums: z.boolean().exactOptional(),
      amcheck: z.union([z.literal(false), z.enum(['sample', 'full'])]).exactOptional(),
      queries: z
        .array(
          z.strictObject({
            database: z.string().min(1).max(63),
            sql: z.string().min(1).max(4_096),
            expect: z.string().max(4_096),
          }),
        )
        .max(20)
        .exactOptional(),
    })
    .optional(),
  queue: z.string().min(1).max(1000).optional(),
  scratchDirectory: z
    .string()
    .max(1000)
    .regex(/^\/(?!.*(?:^|\/)\.\.(?:\/|$))/, 'expected a directory from the root, such as /srv/scratch')
    .optional(),
  waitForWorkerSeconds: seconds.optional(),
});

const restoreInput = z.strictObject({
  ...reference,
  instance: instanceName.optional(),
  source: z.union([objectName, z.record(z.string(), z.unknown())]).optional(),
  // A misspelt target would be no target: everything would be replayed.
  // The planner takes a Backup's name for its id, too.
  recoveryTarget: z
    .strictObject({ ...recoveryTargetSchema.shape, backupID: z.string().optional() })
    .optional(),
  acceptEnd: z.boolean().optional(),
  tablespaces: z.record(z.string(), z.string()).optional(),
  bootstrap: z.boolean().default(false),
  waitForWorkerSeconds: seconds.optional(),
});

/** @throws ApplicationFailure `input-invalid`, not retryable, naming the field */
export function parseBaseBackupInput(raw: BaseBackupInput) {
  return parse(baseBackupInput, raw, 'baseBackup', '{"cluster":"production-postgres"}');
}

/** The rules of a Backup object hold for its name however it was started. @throws ApplicationFailure `input-invalid` */
export function requireBackupName(
  name: string,
  { cluster, namespace }: { cluster: string; namespace: string },
): void {
  const metadata = { name, namespace };
  const raw = { apiVersion: CNPG_API, kind: 'Backup', metadata, spec: { cluster: { name: cluster } } };
  const parsed = backupSchema.safeParse(raw);
  const refused = parsed.success
    ? reviewBackup(parsed.data).find((finding) => finding.severity === 'error')
    : { message: parsed.error.issues[0]?.message ?? 'is not valid', fix: '' };
  if (refused)
    throw failure('input-invalid', `baseBackup: field "name": ${refused.message}`, refused.fix || undefined);
}

/** @throws ApplicationFailure `input-invalid`, not retryable, naming the field */
export function parseWalArchivingInput(raw: WalArchivingInput) {
  return parse(walArchivingInput, raw, 'walArchiving', '{"cluster":"production-postgres"}');
}

/** @throws ApplicationFailure `input-invalid`, not retryable, naming the field */
export function parseScheduledBackupInput(raw: ScheduledBackupInput) {
  return parse(scheduledBackupInput, raw, 'scheduledBackup', '{"scheduledBackup":"nightly"}');
}

/** @throws ApplicationFailure `input-invalid`, not retryable, naming the field */
export function parseRestoreInput(raw: RestoreInput) {
  const input = parse(restoreInput, raw, 'restore', '{"cluster":"restored","source":"production-postgres"}');
  const findings = input.recoveryTarget
    ? reviewRecoveryTarget(input.recoveryTarget, ['recoveryTarget'], { backupIsNamed: 'by backup.name' })
    : [];
  const contradiction = findings.find((finding) => finding.severity === 'error');
  if (!contradiction) return input;
  const { path, message, fix } = contradiction;
  throw failure('input-invalid', `restore: field "${formatPath(path)}": ${message}`, fix || undefined);
}

/** @throws ApplicationFailure `input-invalid`, not retryable, naming the field */
export function parseRestoreVerificationInput(raw: RestoreVerificationInput) {
  const input = parse(
    restoreVerificationInput,
    raw,
    'restoreVerification',
    '{"cluster":"production-postgres"}',
  );
  if (typeof input.target !== 'object') return input;
  // The verification chooses the backup where the target does not name one.
  const findings = reviewRecoveryTarget(input.target, ['target'], { backupIsNamed: 'by backup.name' });
  const contradiction = findings.find((finding) => finding.severity === 'error');
  if (!contradiction) return input;
  const { path, message, fix } = contradiction;
  throw failure(
    'input-invalid',
    `restoreVerification: field "${formatPath(path)}": ${message}`,
    fix || undefined,
  );
}

/** @throws ApplicationFailure `input-invalid`, not retryable, naming the field */
export function parseRetentionSweepInput(raw: RetentionSweepInput) {
  return parse(retentionSweepInput, raw, 'retentionSweep', '{"cluster":"production-postgres"}');
}

/** @throws ApplicationFailure `input-invalid`, not retryable, naming the field */
export function parseWalAuditInput(raw: WalAuditInput) {
  return parse(walAuditInput, raw, 'walAudit', '{"cluster":"production-postgres"}');
}

function parse<Output>(schema: z.ZodType<Output>, raw: unknown, workflow: string, example: string): Output {
  const parsed = schema.safeParse(withoutNulls(raw));
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const field =
    issue && issue.path.length > 0
      ? `field "${formatPath(issue.path.map((step) => (typeof step === 'number' ? step : String(step))))}"`
      : 'the input';
  throw failure(
    'input-invalid',
    `${workflow}: ${field}: ${issue?.message ?? 'is not valid'}; expected JSON like ${example}`,
  );
}

/** `null` is what other clients send for a field that is not there. */
function withoutNulls(raw: unknown): unknown {
  if (typeof raw !== 'object' || raw === null || Array.isArray(raw)) return raw;
  return Object.fromEntries(Object.entries(raw).filter(([, value]) => value !== null));
}
