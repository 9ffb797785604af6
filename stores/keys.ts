import { BackupError } from '../core/errors.ts';

/**
 * Refuses what can't name an object in every store alike: nothing absolute, no empty, `.` or `..` component, no NUL,
 * no component over 255 bytes. Some S3 servers would take `a//b` and `a/../b` for other keys.
 *
 * @throws BackupError `format-invalid`
 */
export function checkKey(key: string): void {
  const components = key.split('/');
  if (components.some((name) => !isPlainComponent(name))) {
    throw new BackupError('format-invalid', `not a key of an object: ${JSON.stringify(key.slice(0, 300))}`);
  }
}

/** As `checkKey`, for the beginning of a key: the last component may be empty or incomplete. @throws as there */
export function checkPrefix(prefix: string): void {
  if (prefix !== '') checkKey(`${prefix}x`);
}

/** As `checkPrefix`, for a folder: empty, or ending in `/`. @throws as there */
export function checkFolder(prefix: string): void {
  if (prefix === '') return;
  if (!prefix.endsWith('/')) {
    throw new BackupError(
      'format-invalid',
      `not a folder, which would end in "/": ${JSON.stringify(prefix)}`,
    );
  }
  checkKey(prefix.slice(0, -1));
}

/**
 * The one kind of key with a slash too many that is read: stock tools that were told a destination with a trailing slash
 * put their annotations one level below everything else. Servers that know no such keys give what is at the usual place,
 * or nothing.
 */
const DOUBLED_SLASH = /^\/[^/].*\/base\/(?:[^/]+\/annotations\/keep)?$/;

/** Whether it is such a key, or the folder of all of them. @param root what stands before it, or `''`: then it can't be */
export function isDoubled(key: string, root: string): boolean {
  return root !== '' && DOUBLED_SLASH.test(key);
}

/** As `checkKey`, for what is read or deleted. @throws as there */
export function checkReadKey(key: string, root: string): void {
  checkKey(isDoubled(key, root) ? key.slice(1) : key);
}

/** As `checkPrefix`, for what is listed. @throws as there */
export function checkReadPrefix(prefix: string, root: string): void {
  checkPrefix(isDoubled(prefix, root) ? prefix.slice(1) : prefix);
}

function isPlainComponent(name: string): boolean {
  return (
    name !== '' && name !== '.' && name !== '..' && !name.includes('\0') && Buffer.byteLength(name) <= 255
  );
}

const SURROGATES = /[\ud800-\udfff]/;

/** Orders keys by their bytes (UTF-8), as S3 lists them. */
export function compareKeys(a: string, b: string): number {
  // JavaScript compares UTF-16 units, which orders the same unless a pair of surrogates is in play
  if (SURROGATES.test(a) || SURROGATES.test(b)) return Buffer.compare(Buffer.from(a), Buffer.from(b));
  return a < b ? -1 : a > b ? 1 : 0;
}
