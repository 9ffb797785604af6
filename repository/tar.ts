/**
 * Tars as they lie in base backups, written and read without a program and without streams, so that worker threads
 * can do both next to synchronous file access.
 */
export { safeMemberPath } from './member-path.ts';
export { TarReader } from './tar-reader.ts';
export { TAR_END, tarEnd, tarHeader, tarPadding, type TarEntry } from './tar-writer.ts';
