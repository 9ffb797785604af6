import { z } from 'zod';
import { BackupError } from '../core/errors.ts';
import { concurrently } from './concurrently.ts';
import { ownKey, quoted } from './layout.ts';
import { ownRecordBytes, readOwnRecord } from './own-record.ts';
import type { Repository } from './repository.ts';
import { createSmallObject } from './small-object.ts';

/** What the Backup object carried beside its name, as Kubernetes has it. */
export interface BackupMetadata {
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly ownerReferences?: readonly {
    readonly apiVersion: string;
    readonly kind: string;
    readonly name: string;
    readonly uid?: string;
    readonly controller: boolean;
  }[];
}

/**
 * How the run of one Backup ended. It stays when the backup is deleted, so that the same manifest applied again does
 * not run again, even with all of Temporal's state lost.
 */
export interface Outcome {
  readonly version: 1;
  readonly backupName: string;
  readonly cluster?: string;
  readonly namespace?: string;
  /** The status of CNPG's Backup: `phase`, `error`, `backupId`, … */
  readonly status: Readonly<Record<string, unknown>>;
  readonly metadata?: BackupMetadata;
  /** ISO 8601. */
  readonly recordedAt: string;
}

const MAX_OUTCOME_BYTES = 256 * 1024;
const READS_AT_ONCE = 8;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$/;

const shortText = z.string().min(1).max(255);
const texts = z.record(z.string(), z.string());
const metadataSchema = z.object({
  labels: texts.exactOptional(),
  annotations: texts.exactOptional(),
  ownerReferences: z
    .array(
      z.object({
        apiVersion: shortText,
        kind: shortText,
        name: shortText,
        uid: shortText.exactOptional(),
        controller: z.boolean(),
      }),
    )
    .exactOptional(),
});
const outcomeSchema: z.ZodType<Outcome> = z.object({
  version: z.literal(1),
  backupName: z.string().regex(NAME),
  cluster: shortText.exactOptional(),
  namespace: shortText.exactOptional(),
  status: z.record(z.string(), z.unknown()),
  metadata: metadataSchema.exactOptional(),
  recordedAt: z.iso.datetime({ offset: true }),
});

function outcomeKey(r: Repository, backupName: string): string {
  if (!NAME.test(backupName)) {
    throw new BackupError('format-invalid', `not the name of a Backup: ${quoted(backupName)}`);
  }
  return ownKey(r.server, 'outcomes', `${backupName}.json`);
}

/**
 * Records how a Backup ended.
 *
 * @param mode `create` never changes one that is there (an equal one is a success); `replace` does
 * @throws BackupError `already-exists`, in mode `create`
 */
export async function writeOutcome(
  r: Repository,
  outcome: Outcome,
  { mode, signal }: { mode: 'create' | 'replace'; signal: AbortSignal },
): Promise<void> {
  const key = outcomeKey(r, outcome.backupName);
  const bytes = ownRecordBytes(key, outcome, outcomeSchema);
  if (mode === 'create') await createSmallObject(r.store, key, bytes, { signal });
  else await r.store.put(key, bytes, { signal, sizeBytes: bytes.length });
}

/** @returns `undefined` when no such run ended @throws BackupError `format-invalid` | `object-damaged` */
export async function readOutcome(
  r: Repository,
  backupName: string,
  signal: AbortSignal,
): Promise<Outcome | undefined> {
  const key = outcomeKey(r, backupName);
  const outcome = await readOwnRecord(r, key, { schema: outcomeSchema, maxBytes: MAX_OUTCOME_BYTES, signal });
  if (outcome && outcome.backupName !== backupName) {
    throw new BackupError('format-invalid', `${key} is about the Backup ${quoted(outcome.backupName)}`);
  }
  return outcome;
}

/** The outcomes of all runs, by name. Objects with names that no outcome has are passed over. @throws as `readOutcome` */
export async function listOutcomes(r: Repository, signal: AbortSignal): Promise<Outcome[]> {
  const prefix = `${ownKey(r.server, 'outcomes')}/`;
  const names: string[] = [];
  for await (const { key } of r.store.list(prefix, { signal })) {
    const name = key.slice(prefix.length).replace(/\.json$/, '');
    if (key.endsWith('.json') && NAME.test(name)) names.push(name);
  }
  const outcomes = await concurrently(names, READS_AT_ONCE, (name) => readOutcome(r, name, signal));
  return outcomes.filter((outcome) => outcome !== undefined);
}
