/** The workflows a worker registers, under the names people type. */
export { baseBackup } from './base-backup.ts';
export { cluster } from './cluster.ts';
export { restore } from './restore.ts';
export { walArchiving } from './wal-archiving.ts';
