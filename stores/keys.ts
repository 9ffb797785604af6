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
