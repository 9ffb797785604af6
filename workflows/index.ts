/** The workflows a worker registers, under the names people type. */
export { baseBackup } from './base-backup.ts';
export { capacity } from './capacity.ts';
export { cluster } from './cluster.ts';
export { restore } from './restore.ts';
export { restoreVerification } from './restore-verification.ts';
export { retentionSweep } from './retention-sweep.ts';
export { scheduledBackup } from './scheduled-backup.ts';
export { walArchiving } from './wal-archiving.ts';
export { walAudit } from './wal-audit.ts';
