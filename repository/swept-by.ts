import { z } from 'zod';
import { ownKey } from './layout.ts';
import { ownRecordBytes, readOwnRecord } from './own-record.ts';
import type { Repository } from './repository.ts';

/** By which BackupPolicy a repository was swept last: what is to be missed when nobody declares it any more. */
export interface SweptBy {
  readonly version: 1;
  /** Its name; absent: by the window of the Cluster alone. */
  readonly policy?: string;
}

const MAX_BYTES = 64 * 1024;
const schema: z.ZodType<SweptBy> = z.object({
  version: z.literal(1),
  policy: z.string().max(253).exactOptional(),
});

/** @throws BackupError `format-invalid` for a record that walkeep did not write */
export async function readSweptBy(r: Repository, signal: AbortSignal): Promise<SweptBy | undefined> {
  return readOwnRecord(r, keyOf(r), { schema, maxBytes: MAX_BYTES, signal });
}

/** Replaces it; one that says the same is left as it is. */
export async function writeSweptBy(r: Repository, record: SweptBy, signal: AbortSignal): Promise<void> {
  const before = await readSweptBy(r, signal).catch(() => undefined);
  if (before !== undefined && before.policy === record.policy) return;
  const bytes = ownRecordBytes(keyOf(r), record, schema);
  await r.store.put(keyOf(r), bytes, { signal, sizeBytes: bytes.length });
}

function keyOf(r: Repository): string {
  return ownKey(r.server, 'swept-by.json');
}
