import { odd } from './gcs-client.ts';
import type { GcsConnection, GcsPlace } from './gcs-client.ts';
import { field } from './gcs-errors.ts';
import { LOCK_FIELDS, lockOfRecord } from './gcs-lock.ts';
import { compareKeys } from './keys.ts';
import type { StoredObject } from './object-store.ts';

interface ListOptions {
  readonly signal: AbortSignal;
  /** Entries of a page, where fewer than the store's 1000 will do. */
  readonly pageKeys?: number;
}

/**
 * The objects below `prefix`, without those whose keys end in `/`.
 *
 * @throws BackupError `store-unavailable` when the list can't be read to its end or makes no sense
 */
export async function* listObjects(
  connection: GcsConnection,
  place: GcsPlace,
  prefix: string,
  options: ListOptions,
): AsyncGenerator<StoredObject, void, void> {
  const inOrder = createOrderCheck(place, prefix);
  for await (const page of pages(connection, place, prefix, undefined, options)) {
    for (const object of entries(page, 'items', `list ${place.named(prefix)}`)) {
      const key = inOrder(field(object, 'name'));
      if (key === '' || key.endsWith('/')) continue;
      const lock = lockOfRecord(object) ?? 'none';
      yield { key, ...sizeAndTime(`list ${place.named(key)}`, object), lock };
    }
  }
}

/** The folders directly below `prefix`. @throws as `listObjects` */
export async function* listFolders(
  connection: GcsConnection,
  place: GcsPlace,
  prefix: string,
  options: ListOptions,
): AsyncGenerator<string, void, void> {
  const inOrder = createOrderCheck(place, prefix);
  const seen = new Set<unknown>();
  for await (const page of pages(connection, place, prefix, '/', options)) {
    for (const folder of entries(page, 'prefixes', `list ${place.named(prefix)}`)) {
      // fake-gcs-server gives all of them with each page
      if (seen.has(folder)) continue;
      seen.add(folder);
      yield inOrder(folder);
    }
  }
}

async function* pages(
  connection: GcsConnection,
  { bucket, root, named }: GcsPlace,
  prefix: string,
  delimiter: string | undefined,
  { signal, pageKeys = 1000 }: ListOptions,
): AsyncGenerator<unknown, void, void> {
  const what = `list ${named(prefix)}`;
  let pageToken: string | undefined;
  for (;;) {
    const { json } = await connection.call(what, {
      method: 'GET',
      path: `/storage/v1/b/${encodeURIComponent(bucket)}/o`,
      query: {
        prefix: root + prefix,
        delimiter,
        maxResults: String(pageKeys),
        fields: `kind,nextPageToken,prefixes,items(name,size,timeCreated,${LOCK_FIELDS})`,
        pageToken,
      },
      signal,
    });
    // an empty list has no other sign that it is one
    if (field(json, 'kind') !== 'storage#objects') throw odd(what, 'the answer is no list of objects');
    yield json;
    const next = field(json, 'nextPageToken');
    if (next === undefined || next === '') return;
    if (typeof next !== 'string' || next === pageToken) {
      throw odd(what, 'the list goes on, but the answer does not say where');
    }
    pageToken = next;
  }
}

function entries(page: unknown, name: 'items' | 'prefixes', what: string): readonly unknown[] {
  const found = field(page, name) ?? [];
  if (!Array.isArray(found)) throw odd(what, `its ${name} are no list`);
  return found;
}

/** Checks that keys come in order below the prefix, so that a page given twice is noticed; takes the root off. */
function createOrderCheck({ root, named }: GcsPlace, prefix: string) {
  let last: string | undefined;
  return (name: unknown): string => {
    const inOrder = typeof name === 'string' && (last === undefined || compareKeys(last, name) < 0);
    if (!inOrder || !name.startsWith(root + prefix)) {
      throw odd(`list ${named(prefix)}`, 'the keys are not in order below the prefix');
    }
    last = name;
    return name.slice(root.length);
  };
}

/** Size and time of an object's record. @throws BackupError `store-unavailable` when it lacks one */
export function sizeAndTime(what: string, record: unknown): { sizeBytes: number; modifiedAt: Date } {
  const size = field(record, 'size');
  // not `updated`, which a change of class or of labels moves
  const time = field(record, 'timeCreated');
  const modifiedAt = new Date(typeof time === 'string' ? time : Number.NaN);
  if (typeof size !== 'string' || !/^\d{1,15}$/.test(size) || Number.isNaN(modifiedAt.getTime())) {
    throw odd(what, 'the answer lacks a size or a time');
  }
  return { sizeBytes: Number(size), modifiedAt };
}
