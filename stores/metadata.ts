import { BackupError } from '../core/errors.ts';

/**
 * Short texts that a store keeps with an object. Names are lower-case letters, digits and hyphens, values visible ASCII:
 * what all stores that have metadata give back as it was.
 */
export type Metadata = Readonly<Record<string, string>>;

export const NO_METADATA: Metadata = Object.freeze({});

/** @throws BackupError `format-invalid` for names or values that some store would change or refuse */
export function checkMetadata(key: string, metadata: Metadata = NO_METADATA): void {
  for (const [name, value] of Object.entries(metadata)) {
    if (/^[a-z][a-z0-9-]{0,63}$/.test(name) && /^[!-~]{1,512}$/.test(value)) continue;
    throw new BackupError('format-invalid', `${key}: no store takes ${JSON.stringify(name)} for metadata`);
  }
}

/** What a store answered, without the entry that is the adapter's own. @param found names in any case */
export function metadataOf(found: Readonly<Record<string, unknown>> | undefined, own?: string): Metadata {
  const entries = Object.entries(found ?? {}).map(([name, value]) => [name.toLowerCase(), value] as const);
  return Object.fromEntries(
    entries.filter((entry): entry is [string, string] => entry[0] !== own && typeof entry[1] === 'string'),
  );
}
