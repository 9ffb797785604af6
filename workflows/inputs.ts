import { z } from 'zod';
import { BACKUP_METHODS, backupSchema, reviewBackup } from '../manifests/backup.ts';
import { CNPG_API } from '../manifests/cluster.ts';
import { formatPath } from '../manifests/problem.ts';
import { recoveryTargetSchema, reviewRecoveryTarget } from '../manifests/recovery.ts';
import { failure } from './failures.ts';
import type { BaseBackupInput, RestoreInput, WalArchivingInput } from './interface.ts';
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

const baseBackupInput = z.strictObject({
  ...reference,
  name: objectName.optional(),
  method: z.enum(BACKUP_METHODS).default('barmanObjectStore'),
  target: z.enum(['primary', 'prefer-standby']).optional(),
  immediateCheckpoint: z.boolean().optional(),
  waitForWorkerSeconds: seconds.optional(),
});

const walArchivingInput = z.strictObject(reference);

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
