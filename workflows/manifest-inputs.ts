import { z } from 'zod';
import { backupSchema, reviewBackup } from '../manifests/backup.ts';
import { clusterSchema, reviewCluster, type ClusterManifest } from '../manifests/cluster.ts';
import { formatPath, type Finding } from '../manifests/problem.ts';
import { failure } from './failures.ts';
import type { ApplyInput } from './interface.ts';

const applyInput = z.strictObject({
  cluster: z.unknown().optional(),
  backups: z.array(z.unknown()).max(50).nullish(),
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
  return {
    ...(input.cluster !== undefined &&
      input.cluster !== null && { cluster: parseClusterInput(input.cluster) }),
    backups: (input.backups ?? []).map((backup, index) => {
      const manifest = parse(backupSchema, backup, 'apply', ['backups', index]);
      refuseErrors(reviewBackup(manifest), `backups[${index}]`);
      return manifest;
    }),
  };
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
