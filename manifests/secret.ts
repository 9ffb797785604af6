import { z } from 'zod';
import { Secret } from '../core/secret.ts';
import { secretKeyFault } from './fields.ts';
import { metadataSchema } from './metadata.ts';

/** Kubernetes' own limit for all values of a Secret together. */
export const MAX_SECRET_BYTES = 1024 * 1024;

const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

const entries = (meaning: string) => z.record(z.string(), z.string({ error: `has to be ${meaning}` }));

/**
 * A Kubernetes Secret. `data` is base64, `stringData` is text and wins. The parsed value holds `Secret`s: it can be
 * printed without harm, and no message of this schema shows a value.
 */
export const secretSchema = z
  .object({
    apiVersion: z.literal('v1'),
    kind: z.literal('Secret'),
    metadata: metadataSchema,
    type: z.string().optional(),
    immutable: z.boolean().optional(),
    data: entries('base64 text').default({}),
    stringData: entries('text; put it in quotes').default({}),
  })
  .superRefine(({ data, stringData }, context) => {
    const refuse = (path: string[], message: string, fix: string) =>
      context.addIssue({ code: 'custom', path, message, params: { fix } });
    for (const [field, values] of Object.entries({ data, stringData })) {
      for (const key of Object.keys(values)) {
        const fault = secretKeyFault(key);
        if (fault) refuse([field, key], fault.message, fault.fix);
      }
    }
    for (const [key, value] of Object.entries(data)) {
      if (BASE64.test(value.replace(/\s/g, ''))) continue;
      refuse(
        ['data', key],
        'is not base64',
        'encode it (printf %s VALUE | base64 -w0), or write it as it is under stringData',
      );
    }
    if (Object.keys(data).length + Object.keys(stringData).length === 0) {
      refuse([], 'holds no values', 'add them under stringData, or remove the document');
    }
    const bytes = [...Object.values(data), ...Object.values(stringData)].reduce(
      (sum, value) => sum + value.length,
      0,
    );
    if (bytes > 2 * MAX_SECRET_BYTES) refuse([], 'is larger than 1 MiB', 'keep files elsewhere');
  })
  .transform(({ apiVersion, kind, metadata, data, stringData }) => ({
    apiVersion,
    kind,
    metadata,
    values: new Map<string, Secret>([
      ...Object.entries(data).map(([key, value]) => [key, new Secret(Buffer.from(value, 'base64'))] as const),
      ...Object.entries(stringData).map(([key, value]) => [key, new Secret(value)] as const),
    ]),
  }));
export type SecretManifest = z.infer<typeof secretSchema>;
