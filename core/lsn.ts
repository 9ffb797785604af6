import { BackupError } from './errors.ts';

/** A position in the WAL: bytes since its beginning, an unsigned 64-bit number. */
export type Lsn = bigint & { readonly __brand: 'Lsn' };

/** @throws BackupError `format-invalid` unless `text` is two hexadecimal numbers of up to 8 digits around a slash. */
export function parseLsn(text: string): Lsn {
  const match = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text);
  if (!match) throw new BackupError('format-invalid', `not an LSN: "${text}" (expected like 0/3000028)`);
  return ((BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`)) as Lsn;
}

/** PostgreSQL's spelling: `%X/%X`, upper-case, without padding. */
export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffff_ffffn).toString(16).toUpperCase()}`;
}

/** `value` as a position. */
export function toLsn(value: bigint): Lsn {
  return BigInt.asUintN(64, value) as Lsn;
}
