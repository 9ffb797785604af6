import type { ContainerClient } from '@azure/storage-blob';
import { odd } from './azure-client.ts';
import type { AzureConnection, AzurePlace } from './azure-client.ts';
import { compareKeys } from './keys.ts';
import type { StoredObject } from './object-store.ts';

interface ListOptions {
  readonly signal: AbortSignal;
}

/**
 * The objects below `prefix`, without those whose keys end in `/`.
 *
 * @throws BackupError `store-unavailable` when the list can't be read to its end or makes no sense
 */
export async function* listObjects(
  connection: AzureConnection,
  place: AzurePlace,
  prefix: string,
  options: ListOptions,
): AsyncGenerator<StoredObject, void, void> {
  const what = `list ${place.named(prefix)}`;
  const wanted = place.root + prefix;
  const blobs = pages(connection, what, options, async (container, marker, sdk) => {
    const paging = container.listBlobsFlat({ ...sdk, prefix: wanted }).byPage(marker);
    for await (const page of paging)
      return { entries: page.segment?.blobItems, next: page.continuationToken };
  });
  for await (const { name, properties } of inByteOrder(blobs, what, wanted)) {
    const key = name.slice(place.root.length);
    if (key === '' || key.endsWith('/')) continue;
    const { contentLength: sizeBytes, lastModified: modifiedAt } = properties;
    yield { key, ...sizeAndTime(what, sizeBytes, modifiedAt) };
  }
}

/** The folders directly below `prefix`. @throws as `listObjects` */
export async function* listFolders(
  connection: AzureConnection,
  place: AzurePlace,
  prefix: string,
  options: ListOptions,
): AsyncGenerator<string, void, void> {
  const what = `list ${place.named(prefix)}`;
  const wanted = place.root + prefix;
  const folders = pages(connection, what, options, async (container, marker, sdk) => {
    const paging = container.listBlobsByHierarchy('/', { ...sdk, prefix: wanted }).byPage(marker);
    for await (const { segment, continuationToken } of paging) {
      // of a page with objects only, the SDK leaves the folders away
      return { entries: segment?.blobItems && (segment.blobPrefixes ?? []), next: continuationToken };
    }
  });
  for await (const { name } of inByteOrder(folders, what, wanted)) yield name.slice(place.root.length);
}

interface Page<T> {
  readonly entries: readonly T[] | undefined;
  /** Where the next one begins: `''` says that this is the last. */
  readonly next: string | undefined;
}

type Marker = { continuationToken?: string };

/** Pages may be empty although others follow. */
async function* pages<T>(
  connection: AzureConnection,
  what: string,
  { signal }: ListOptions,
  ask: (
    container: ContainerClient,
    from: Marker,
    options: { abortSignal: AbortSignal },
  ) => Promise<Page<T> | undefined>,
): AsyncGenerator<T, void, void> {
  let token: string | undefined;
  for (;;) {
    const from = token === undefined ? {} : { continuationToken: token };
    const page: Page<T> | undefined = await connection.call(what, { signal }, (container, options) =>
      ask(container, from, options),
    );
    // an answer that was cut short looks like a short list otherwise
    if (page?.entries === undefined || page.next === undefined) {
      throw odd(what, 'the answer does not say whether it is complete');
    }
    yield* page.entries;
    if (page.next === '') return;
    if (page.next === token) throw odd(what, 'the list goes on, but the answer does not say where');
    token = page.next;
  }
}

/**
 * The same entries in byte order of their names, each once.
 *
 * Stores of this protocol may order by UTF-16 units, as their makers' languages do, which differs only where a character
 * beyond U+FFFF meets one between U+E000 and U+FFFF. So the entries that share what stands before the first character
 * of that kind are held until another beginning comes, and sorted; ordinary names are never held.
 *
 * @throws BackupError `store-unavailable` when names come in neither order, or not below the prefix: a page given twice
 *   is noticed so
 */
async function* inByteOrder<T extends { readonly name: string }>(
  entries: AsyncIterable<T>,
  what: string,
  prefix: string,
): AsyncGenerator<T, void, void> {
  let last: string | undefined;
  let held: T[] = [];
  let beginning = '';
  for await (const entry of entries) {
    const { name } = entry;
    const inOrder = last === undefined || last < name || compareKeys(last, name) < 0;
    if (!inOrder || !name.startsWith(prefix)) throw odd(what, 'the names are not in order below the prefix');
    last = name;
    if (held.length > 0 && !name.startsWith(beginning)) {
      yield* sorted(held);
      held = [];
    }
    const at = held.length > 0 ? -1 : name.slice(prefix.length).search(UNEASY);
    if (at >= 0) beginning = name.slice(0, prefix.length + at);
    if (held.length > 0 || at >= 0) held.push(entry);
    else yield entry;
  }
  yield* sorted(held);
}

/** Halves of characters beyond U+FFFF, and U+E000 to U+FFFF, without looking at characters as a whole. */
const UNEASY = /[\ud800-\uffff]/;

function sorted<T extends { readonly name: string }>(entries: readonly T[]): T[] {
  return entries.toSorted((a, b) => compareKeys(a.name, b.name));
}

/** Size and time of an answer. @throws BackupError `store-unavailable` when it lacks one */
export function sizeAndTime(what: string, sizeBytes: number | undefined, modifiedAt: Date | undefined) {
  if (sizeBytes === undefined || modifiedAt === undefined || Number.isNaN(modifiedAt.getTime()))
    throw odd(what, 'the answer lacks a size or a time');
  return { sizeBytes, modifiedAt };
}
