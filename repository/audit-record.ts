import { z } from 'zod';
import type { AuditReport } from '../core/audit.ts';
import { ownKey } from './layout.ts';
import { ownRecordBytes, readOwnRecord } from './own-record.ts';
import type { Repository } from './repository.ts';

/** A stored WAL file that was found damaged; it stays so until it changes or is read again. */
export interface DamagedObject {
  readonly key: string;
  readonly fileName: string;
  readonly sizeBytes: number;
  /** The store's time, RFC 3339. */
  readonly storedAt: string;
  /** What is wrong, as `inspectWal` names it; a later version may have other words. */
  readonly fault: string;
  readonly detail: string;
}

/** The newest audit, and what the next one need not do again. */
export interface AuditRecord {
  readonly version: 1;
  readonly report: AuditReport;
  /** Segments that were read and found whole, by their first and last names. */
  readonly read: readonly { readonly first: string; readonly last: string }[];
  readonly damaged: readonly DamagedObject[];
  /** The newest of the store's times that were seen, RFC 3339. */
  readonly newestStoredAt?: string;
}

const MAX_AUDIT_BYTES = 8 * 1024 * 1024;

const text = z.string().max(4096);
const time = z.iso.datetime({ offset: true });
const count = z.number().min(0);
const reportSchema: z.ZodType<AuditReport> = z.object({
  at: time,
  intervals: z.array(
    z.object({
      timeline: count,
      backupId: text,
      fromLsn: text,
      toLsn: text,
      fromTime: time.exactOptional(),
      toTime: time.exactOptional(),
      lastSegment: text,
    }),
  ),
  damages: z.array(
    z.object({
      kind: z.enum(['missing', 'damaged']),
      timeline: count,
      first: text,
      last: text,
      count,
      detail: text.exactOptional(),
      repair: z.enum(['repaired', 'impossible', 'not-tried']).exactOptional(),
      source: text.exactOptional(),
    }),
  ),
  backups: count,
  segments: count,
  walBytes: count,
  newestBackup: z.object({ backupId: text, endedAt: time }).exactOptional(),
  newestVerified: z.object({ id: text, at: time, backupId: text.exactOptional() }).exactOptional(),
  newestSegment: z.object({ name: text, storedAt: time }).exactOptional(),
  segmentsRead: count,
  needsBackup: z.boolean(),
  warnings: z.array(text),
});

const recordSchema: z.ZodType<AuditRecord> = z.object({
  version: z.literal(1),
  report: reportSchema,
  read: z.array(
    z.object({ first: z.string().regex(/^[0-9A-F]{24}$/), last: z.string().regex(/^[0-9A-F]{24}$/) }),
  ),
  damaged: z.array(
    z.object({ key: text, fileName: text, sizeBytes: count, storedAt: time, fault: text, detail: text }),
  ),
  newestStoredAt: time.exactOptional(),
});

function auditKey(r: Repository): string {
  return ownKey(r.server, 'audit.json');
}

/** @returns `undefined` when no audit was kept @throws BackupError `format-invalid` | `object-damaged` */
export function readAuditRecord(r: Repository, signal: AbortSignal): Promise<AuditRecord | undefined> {
  return readOwnRecord(r, auditKey(r), { schema: recordSchema, maxBytes: MAX_AUDIT_BYTES, signal });
}

/** Keeps the newest audit in place of the one before. @throws BackupError `format-invalid`; what the store throws */
export async function writeAuditRecord(
  r: Repository,
  record: AuditRecord,
  signal: AbortSignal,
): Promise<void> {
  const bytes = ownRecordBytes(auditKey(r), record, recordSchema);
  await r.store.put(auditKey(r), bytes, { signal, sizeBytes: bytes.length });
}
