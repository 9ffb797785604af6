import { z } from 'zod';
import { retentionPolicy } from './cluster.ts';
import { metadataSchema } from './metadata.ts';
import { barmanObjectStoreSchema, reviewObjectStore } from './object-store.ts';
import type { Finding } from './problem.ts';

export const BARMAN_PLUGIN_API = 'barmancloud.cnpg.io/v1';

/** The Barman plugin's ObjectStore: `configuration` is a `barmanObjectStore` without `serverName`. */
export const objectStoreSchema = z.object({
  apiVersion: z.literal(BARMAN_PLUGIN_API),
  kind: z.literal('ObjectStore'),
  metadata: metadataSchema,
  spec: z.object({
    configuration: barmanObjectStoreSchema,
    retentionPolicy: retentionPolicy.optional(),
    /** Of the plugin's sidecar, which walkeep does not run. */
    instanceSidecarConfiguration: z
      .looseObject({})
      .transform(() => ({}))
      .optional(),
  }),
});
export type ObjectStoreManifest = z.infer<typeof objectStoreSchema>;

/** The rules of an ObjectStore that concern more than one field. */
export function reviewObjectStoreResource({ spec }: ObjectStoreManifest): Finding[] {
  const path = ['spec', 'configuration'];
  const findings = reviewObjectStore(spec.configuration, path);
  if (spec.configuration.serverName !== undefined) {
    const message = 'an ObjectStore serves several clusters, so it names no server';
    const fix = 'remove it; each Cluster gives parameters.serverName of its plugin';
    findings.push({ path: [...path, 'serverName'], message, fix, severity: 'error' });
  }
  return findings;
}
