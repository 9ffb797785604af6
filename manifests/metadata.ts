import { z } from 'zod';
import { namespaceName, objectName, textMap } from './fields.ts';

/** The namespace of an object that names none. */
export const DEFAULT_NAMESPACE = 'default';

/** Fields of Kubernetes' ObjectMeta: what the API server adds to an exported object is accepted and left aside. */
export const METADATA_FIELDS: readonly string[] = [
  'name',
  'namespace',
  'labels',
  'annotations',
  'generateName',
  'uid',
  'resourceVersion',
  'generation',
  'creationTimestamp',
  'deletionTimestamp',
  'deletionGracePeriodSeconds',
  'finalizers',
  'ownerReferences',
  'managedFields',
  'selfLink',
];

const KEPT_ANNOTATION = /^([a-z0-9-]+\.)*(cnpg|walkeep)\.io\//;

/**
 * Name, namespace, labels, and the annotations of CNPG and walkeep. Others are dropped: kubectl keeps whole manifests
 * in one, and what is kept here travels into workflows.
 */
export const metadataSchema = z.object({
  name: objectName,
  namespace: namespaceName.default(DEFAULT_NAMESPACE),
  labels: textMap.default({}),
  annotations: textMap
    .default({})
    .transform((all) => Object.fromEntries(Object.entries(all).filter(([key]) => KEPT_ANNOTATION.test(key)))),
});
export type Metadata = z.infer<typeof metadataSchema>;

/** The annotations walkeep reads, and the kinds they belong on. */
export const WALKEEP_ANNOTATIONS = {
  'walkeep.io/cron': ['ScheduledBackup', 'ScheduledVerification'],
  'walkeep.io/timezone': ['ScheduledBackup', 'ScheduledVerification'],
  'walkeep.io/hold': ['Backup'],
} as const satisfies Record<string, readonly string[]>;

/** `production/postgres`. */
export function objectId(metadata: { readonly namespace: string; readonly name: string }): string {
  return `${metadata.namespace}/${metadata.name}`;
}
