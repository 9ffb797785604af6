import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import { parseWalHeader } from '../postgres/wal-page.ts';
import { readBarmanView } from '../repository/barman-view.ts';
import { readCatalogue, type CatalogueEntry } from '../repository/catalogue.ts';
import { basePrefix } from '../repository/layout.ts';
import { lookAtLease } from '../repository/lease.ts';
import { deriveOwner, readOwner, type OwnerIdentity } from '../repository/owner.ts';
import { probeStore, type Permissions, type Probe } from '../repository/probe-store.ts';
import type { Repository } from '../repository/repository.ts';
import { newestKnown, readStoreRecord, writeStoreRecord } from '../repository/store-record.ts';
import type { CheckItem } from './check-cluster.ts';
import { storeRecordItems } from './store-items.ts';
import { SWEEP_LEASE } from './sweep.ts';
import { countOf, surveyRepository, type Survey } from './survey-repository.ts';

export interface RepositoryCheckOptions {
  readonly signal: AbortSignal;
  /** Probe nothing, write nothing. */
  readonly readOnly?: boolean;
  /** As the manifest or the command line spells it. */
  readonly destinationPath?: string;
  /** No manifest says that it is to be there: where nothing lies another one was meant, and nothing is begun. */
  readonly mustExist?: boolean;
  readonly now: Date;
}

/** An upload that runs longer than this has been forgotten. */
const FORGOTTEN_MS = 24 * 3_600_000;
const MOST_ITEMS = 10;

/**
 * Looks at everything that a repository promises by itself, without PostgreSQL, Temporal or a worker. It writes what the
 * probe of the store writes, and nothing else. Every item is looked at, whatever fails; only a store that does not answer
 * ends it.
 */
export async function checkRepository(r: Repository, options: RepositoryCheckOptions): Promise<CheckItem[]> {
  const { signal } = options;
  const reached = await attempt('repository', () => surveyRepository(r, signal));
  if ('failed' in reached) return [reached.failed];
  const survey = reached.value;
  const objects = countOf(survey);
  if (options.mustExist === true && objects === 0) return [nothingItem(r)];
  const catalogue = attempt('records', () => readCatalogue(r, signal));
  return [
    {
      item: 'repository',
      state: 'ok',
      found: `${r.url} answers; ${objects} ${objects === 1 ? 'object lies' : 'objects lie'} there`,
    },
    ...(await storeItems(r, options)),
    ...(await each('owner', async () => ownerItems(r, entriesIn(await catalogue), options))),
    ...(await each('sweep lease', async () => [await leaseItem(r, options)])),
    ...(await each('records', async () => recordItems(r, survey, await catalogue, signal))),
    emptyWalItem(survey),
    secondCopiesItem(survey),
    ...(await each('unfinished uploads', async () => [await uploadsItem(r, options)])),
    ...strangerItems(survey),
    ...(options.destinationPath === undefined ? [] : [spellingItem(options.destinationPath)]),
  ];
}

function nothingItem({ url }: Repository): CheckItem {
  return {
    item: 'repository',
    state: 'problem',
    found: `nothing lies at ${url}: is the server name right?`,
    todo: 'correct it; one that is yet to begin is tried by the name of its Cluster, or with -f MANIFEST',
  };
}

type Attempt<Value> = { readonly value: Value } | { readonly failed: CheckItem };

async function attempt<Value>(item: string, work: () => Promise<Value>): Promise<Attempt<Value>> {
  try {
    return { value: await work() };
  } catch (error) {
    const hint = error instanceof BackupError ? error.hint : undefined;
    return { failed: { item, state: 'problem', found: messageOf(error), ...(hint && { todo: hint }) } };
  }
}

function entriesIn(catalogue: Attempt<CatalogueEntry[]>): readonly CatalogueEntry[] {
  return 'failed' in catalogue ? [] : catalogue.value;
}

async function each(item: string, work: () => Promise<CheckItem[]>): Promise<CheckItem[]> {
  const tried = await attempt(item, work);
  return 'failed' in tried ? [tried.failed] : tried.value;
}

// ---- the store -----------------------------------------------------------------------------------------------------

async function storeItems(
  r: Repository,
  { signal, readOnly, now }: RepositoryCheckOptions,
): Promise<CheckItem[]> {
  const kind = { isProven: r.bareStore === undefined };
  if (readOnly === true) {
    return each('store', async () => storeRecordItems(await readStoreRecord(r, signal), now, kind));
  }
  const probed = await attempt('credentials', async () => {
    const known = await readStoreRecord(r, signal);
    const probe = await probeStore(r, signal);
    const record = newestKnown(known, probe.record);
    if (record !== known && record.ifAbsent !== 'unknown') await writeStoreRecord(r, record, signal);
    r.remember?.(record);
    return { ...probe, record };
  });
  if ('failed' in probed) return [probed.failed];
  return [...permissionItems(probed.value), ...storeRecordItems(probed.value.record, now, kind)];
}

function permissionItems({ refused, left }: Probe): CheckItem[] {
  const item = (what: keyof Permissions, whenRefused: Pick<CheckItem, 'state' | 'todo'>): CheckItem => {
    const why = refused[what];
    return why === undefined
      ? { item: `may ${what}`, state: 'ok', found: 'yes' }
      : { item: `may ${what}`, ...whenRefused, found: `no: ${why}` };
  };
  const items = [
    item('read', { state: 'problem', todo: 'allow the key to read the objects of this folder' }),
    item('list', { state: 'problem', todo: 'allow the key to list the bucket below this folder' }),
    item('write', {
      state: 'problem',
      todo: 'allow the key to create objects of this folder: nothing else can be archived with it',
    }),
  ];
  if (refused.write !== undefined) {
    const untried = 'not tried: nothing could be written that could be deleted';
    return [...items, { item: 'may delete', state: 'unknown', found: untried }];
  }
  const kept = left.length > 0 ? ` (left behind: ${left[0]}${left.length > 1 ? ', …' : ''})` : '';
  const deletes = item('delete', {
    // An archive's key is the better for it; whoever sweeps needs another.
    state: 'warning',
    todo: 'that is as it should be for a key that archives only; sweeps need one that may delete',
  });
  return [...items, left.length > 0 ? { ...deletes, found: `${deletes.found}${kept}` } : deletes];
}

// ---- whose it is ---------------------------------------------------------------------------------------------------

async function ownerItems(
  r: Repository,
  entries: readonly CatalogueEntry[],
  { signal, mustExist }: RepositoryCheckOptions,
): Promise<CheckItem[]> {
  const item = 'owner';
  const [owner, derived] = await Promise.all([readOwner(r, signal), derivedOwner(r, signal)]);
  if (!owner && 'refused' in derived)
    return [{ item, state: 'problem', found: derived.refused.message, todo: derived.refused.hint }];
  const identity = owner ?? ('refused' in derived ? undefined : derived.identity);
  if (!identity) {
    if (mustExist === true) {
      const found = 'nobody’s: neither a backup nor WAL lies there';
      return [{ item, state: 'problem', found, todo: 'is the server name right?' }];
    }
    const found = 'nobody’s: it is empty, and belongs to the first cluster that archives here';
    return [{ item, state: 'ok', found }];
  }
  const foreign = entries.flatMap(({ backupId, info }) =>
    info?.systemId === undefined || info.systemId === identity.systemId
      ? []
      : [`${backupId} of ${info.systemId}`],
  );
  if (
    foreign.length === 0 &&
    owner &&
    !('refused' in derived) &&
    derived.identity &&
    derived.identity.systemId !== owner.systemId
  )
    foreign.push(`WAL of ${derived.identity.systemId}`);
  if (foreign.length > 0) {
    return [
      {
        item,
        state: 'problem',
        found: `it belongs to system identifier ${identity.systemId}, but holds what others wrote: ${foreign.slice(0, 3).join(', ')}${foreign.length > 3 ? ', …' : ''}`,
        todo: 'two clusters share this folder: give one of them another serverName',
      },
    ];
  }
  return [
    {
      item,
      state: 'ok',
      found: owner
        ? `system identifier ${owner.systemId}, claimed ${owner.createdAt}`
        : `not claimed by walkeep yet; what lies there is of system identifier ${identity.systemId}`,
    },
  ];
}

async function derivedOwner(
  r: Repository,
  signal: AbortSignal,
): Promise<{ readonly identity: OwnerIdentity | undefined } | { readonly refused: BackupError }> {
  try {
    return { identity: await deriveOwner(r, signal, (head) => parseWalHeader(head)) };
  } catch (error) {
    if (!isBackupError(error, 'wal-foreign')) throw error;
    return { refused: error };
  }
}

async function leaseItem(r: Repository, { signal, now }: RepositoryCheckOptions): Promise<CheckItem> {
  const item = 'sweep lease';
  const lease = await lookAtLease(r, SWEEP_LEASE, signal);
  if (!lease || lease.released) return { item, state: 'ok', found: 'free' };
  const ageMs = now.getTime() - lease.renewedAt.getTime();
  const who = `${lease.holder} (host ${lease.host}), renewed ${Math.max(0, Math.round(ageMs / 1000))} s ago`;
  return ageMs < lease.ttlMs
    ? { item, state: 'ok', found: `held by ${who}` }
    : { item, state: 'ok', found: `free; the last holder did not give it back: ${who}` };
}

// ---- what lies there -----------------------------------------------------------------------------------------------

async function recordItems(
  r: Repository,
  survey: Survey,
  catalogue: Attempt<CatalogueEntry[]>,
  signal: AbortSignal,
): Promise<CheckItem[]> {
  if ('failed' in catalogue) return [catalogue.failed];
  const entries = catalogue.value;
  const unreadable = entries.filter(({ info }) => info === undefined);
  const folders = survey.backups.filter(({ hasRecord }) => hasRecord).map(({ folder }) => folder);
  const barman = await readBarmanView(r, folders, signal);
  const items: CheckItem[] = [
    ...unreadable.slice(0, MOST_ITEMS).map(({ backupId, problem }): CheckItem => ({
      item: 'record',
      state: 'problem',
      found: `${basePrefix(r.server)}${backupId}: ${problem ?? 'it can’t be read'}`,
      todo: 'nothing is deleted while it is there: repair it, or move the folder away',
    })),
    ...barman.blocking.slice(0, MOST_ITEMS).map(({ folder, why }): CheckItem => ({
      item: 'barman-cloud',
      state: 'problem',
      found: `lists, shows, restores and deletes nothing here because of ${folder}: ${why}`,
      todo: 'remove that line from its backup.info, or update barman-cloud',
    })),
    ...barman.unreadable.slice(0, MOST_ITEMS).map(({ folder, why }): CheckItem => ({
      item: 'barman-cloud',
      state: 'warning',
      found: `passes ${folder} over, and deletes nothing while it is there: ${why}`,
      todo: 'repair its backup.info, or move the folder away',
    })),
  ];
  const more = Math.max(0, unreadable.length - MOST_ITEMS);
  if (more > 0) items.push({ item: 'record', state: 'problem', found: `${more} more can’t be read` });
  if (items.length > 0) return items;
  return [
    {
      item: 'records',
      state: 'ok',
      found: `${entries.length} can be read, by barman-cloud too`,
    },
  ];
}

/** All that a listing tells of the bytes of WAL: what is in them is an audit's to read. */
function emptyWalItem({ emptyWal: { count, keys } }: Survey): CheckItem {
  const item = 'WAL';
  if (count === 0) return { item, state: 'ok', found: 'no file is empty; walkeep audit CLUSTER reads them' };
  return {
    item,
    state: 'problem',
    found: `${count} ${count === 1 ? 'file is' : 'files are'} empty, such as ${keys.slice(0, 3).join(', ')}: recovery can’t pass there`,
    todo: 'walkeep audit CLUSTER --repair sends them again from an instance that still has them; else take a base backup now',
  };
}

function secondCopiesItem({ secondCopies: { count, names } }: Survey): CheckItem {
  const item = 'one object a WAL name';
  if (count === 0) return { item, state: 'ok', found: 'yes' };
  return {
    item,
    state: 'warning',
    found: `${count} more than one: ${names.slice(0, 3).join(', ')}${names.length > 3 ? ', …' : ''}`,
    todo: 'walkeep audit CLUSTER --read all compares them; keep one of each',
  };
}

async function uploadsItem(r: Repository, { signal, now }: RepositoryCheckOptions): Promise<CheckItem> {
  const item = 'unfinished uploads';
  if (!r.store.unfinished) return { item, state: 'ok', found: 'none: this kind of store has no such thing' };
  let old = 0;
  let running = 0;
  let first: string | undefined;
  for await (const { key, startedAt } of r.store.unfinished(`${r.server}/`, { signal })) {
    if (now.getTime() - startedAt.getTime() < FORGOTTEN_MS) running += 1;
    else {
      old += 1;
      first ??= key;
    }
  }
  if (old === 0)
    return { item, state: 'ok', found: running === 0 ? 'none' : `${running}, begun within a day` };
  return {
    item,
    state: 'warning',
    found: `${old} older than a day, the first of ${first}: they take room, and no listing shows them`,
    todo: 'walkeep sweep CLUSTER removes them, and so does a rule of the bucket',
  };
}

function strangerItems({ strangers, hazards }: Survey): CheckItem[] {
  const some = (keys: readonly string[]) => keys.slice(0, 3).join(', ');
  const items: CheckItem[] = [];
  if (hazards.count > 0) {
    items.push({
      item: 'strangers in a backup',
      state: 'problem',
      found: `${hazards.count}, such as ${some(hazards.keys)}: barman-cloud takes them for tars, and its restore fails`,
      todo: 'move them out of base/',
    });
  }
  if (strangers.count > 0) {
    items.push({
      item: 'strangers',
      state: 'warning',
      found: `${strangers.count} ${strangers.count === 1 ? 'object' : 'objects'} that neither tool wrote, such as ${some(strangers.keys)}`,
      todo: 'move them elsewhere: barman-cloud may delete what lies in a folder of WAL, and nobody restores them',
    });
  }
  return items.length > 0 ? items : [{ item: 'strangers', state: 'ok', found: 'none' }];
}

function spellingItem(destinationPath: string): CheckItem {
  const item = 'destinationPath';
  if (!/[^/]\/+$/.test(destinationPath)) return { item, state: 'ok', found: destinationPath };
  return {
    item,
    state: 'warning',
    found: `${destinationPath} ends in a slash: barman-cloud then puts keeps under keys with one slash too many`,
    todo: 'leave the slash out, here and for barman-cloud; walkeep looks under both keys',
  };
}
