import { weaknessesOf, type StoreRecord } from '../repository/store-record.ts';
import type { CheckItem } from './check-cluster.ts';

/**
 * What is known of the store, item by item. Pure.
 *
 * @param isProven whether this kind of store creates only, whoever runs it, such as a directory: there is no server to update
 */
export function storeRecordItems(
  record: StoreRecord | undefined,
  now: Date,
  { isProven = false }: { readonly isProven?: boolean } = {},
): CheckItem[] {
  if (!record) {
    const found = 'not tried yet: the first worker, or the first WAL, tries it';
    return [{ item: 'store', state: 'unknown', found, todo: 'walkeep repository check tries it now' }];
  }
  const ageDays = Math.max(0, Math.floor((now.getTime() - Date.parse(record.probedAt)) / 86_400_000));
  const when = ageDays === 0 ? 'tried today' : `tried ${ageDays} days ago`;
  const weak = weaknessesOf(record);
  const isUntried = isProven && record.ifAbsent === 'unknown';
  const creates: CheckItem = isUntried
    ? { item: 'create only', state: 'unknown', found: 'not tried: nothing could be written' }
    : weak.length === 0
      ? { item: 'create only', state: 'ok', found: `an object that exists is not replaced (${when})` }
      : {
          item: 'create only',
          state: 'warning',
          found: `${weak.join('; ')} (${when})`,
          todo: 'a server that keeps If-None-Match needs none of this: update it, or use another one',
        };
  const checksums = {
    yes: 'refuses bytes that came damaged',
    no: 'does not look at checksums; walkeep does',
    unknown: '',
  };
  const deletes = { yes: 'deletes many at once', no: 'deletes one by one', unknown: '' };
  const traits = [checksums[record.checksums], deletes[record.bulkDelete], versionsText(record)];
  const locked = record.objectLock === 'on';
  const known = [...traits, ...(locked ? ['locks new objects by default'] : [])].filter(Boolean).join('; ');
  if (known === '') {
    const store: CheckItem = isProven
      ? { item: 'store', state: 'ok', found: 'this kind of store has nothing more to be asked' }
      : { item: 'store', state: 'unknown', found: 'nothing more is known of it yet' };
    return [creates, store];
  }
  return [
    creates,
    {
      item: 'store',
      state: locked ? 'warning' : 'ok',
      found: known,
      ...(locked && { todo: 'sweeps skip what is locked, and say so' }),
    },
  ];
}

function versionsText({ versioning }: StoreRecord): string {
  if (versioning === 'on')
    return 'keeps versions: what is deleted still takes room until the bucket’s rule ends it';
  if (versioning === 'suspended') return 'keeps the versions of before, and no new ones';
  return versioning === 'off' ? 'keeps no versions' : '';
}
