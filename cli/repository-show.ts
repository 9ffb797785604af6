import type { RepositoryDescription } from '../operations/describe-repository.ts';
import { formatBytes } from './output.ts';

type Line = readonly [label: string, text: string];

/** A repository for people. Pure. */
export function formatDescription(found: RepositoryDescription): string {
  const lines: Line[] = [
    ['Repository', found.repository],
    ...(isEmpty(found) ? [['', 'nothing lies there: is the server name right?'] satisfies Line] : []),
    ['Owner', ownerText(found)],
    ...sizeLines(found),
    ...backupLines(found),
    ...timelineLines(found),
    ...storeLines(found),
    ...barmanLines(found),
  ];
  const width = Math.max(...lines.map(([label]) => label.length)) + 2;
  return lines
    .map(([label, text]) => `${(label ? `${label}:` : '').padEnd(width)}${text.replaceAll('\n', ' ')}\n`)
    .join('');
}

function isEmpty({ sizes: { backups, wal, own, strangers } }: RepositoryDescription): boolean {
  return [backups, wal, own, strangers].every(({ count }) => count === 0);
}

function ownerText({ owner, ownerProblem }: RepositoryDescription): string {
  if (ownerProblem !== undefined) return `not known: ${ownerProblem}`;
  if (!owner) return 'nobody yet';
  const { systemId, segmentSize, claimedAt } = owner;
  const since =
    claimedAt === undefined ? 'not claimed by walkeep; that is what lies there' : `claimed ${claimedAt}`;
  return `system identifier ${systemId}, WAL segments of ${formatBytes(segmentSize)} (${since})`;
}

function sizeLines({ sizes }: RepositoryDescription): Line[] {
  const text = ({ count, bytes }: { count: number; bytes: number }) =>
    `${formatBytes(bytes)} in ${count} ${count === 1 ? 'object' : 'objects'}`;
  return [
    ['Base backups', text(sizes.backups)],
    ['WAL', text(sizes.wal)],
    ['Ours', text(sizes.own)],
    ...(sizes.strangers.count > 0 ? [['Strangers', text(sizes.strangers)] satisfies Line] : []),
  ];
}

function backupLines({ backups: { usable, unusable, first, last } }: RepositoryDescription): Line[] {
  const more = unusable > 0 ? `, and ${unusable} that can't be` : '';
  const line = ({ id, name, endedAt }: NonNullable<typeof first>) =>
    `${id}${name === undefined ? '' : ` (${name})`}${endedAt === undefined ? '' : `, ended ${endedAt}`}`;
  return [
    ['Backups', `${usable} that can be restored${more}`],
    ...(first ? [['First', line(first)] satisfies Line] : []),
    ...(last ? [['Last', line(last)] satisfies Line] : []),
  ];
}

function timelineLines({ timelines }: RepositoryDescription): Line[] {
  return timelines.map(({ timeline, first, last, count, bytes, hasHistory, from }) => {
    const parent = from
      ? `, from timeline ${from.timeline} at ${from.lsn}`
      : timeline === 1 || hasHistory
        ? ''
        : ', its history is missing';
    const range = first === undefined ? 'no whole segment' : `${first} to ${last ?? ''}`;
    return [`Timeline ${timeline}`, `${range}, ${count} objects, ${formatBytes(bytes)}${parent}`];
  });
}

function storeLines({ store }: RepositoryDescription): Line[] {
  if (!store) return [['Store', 'not tried yet: walkeep repository check does']];
  const say = (what: string, answer: string) => `${what}: ${answer}`;
  const traits = [
    say('creates only', store.ifAbsent),
    say('also in parts', store.multipartIfAbsent),
    say('checks checksums', store.checksums),
    say('deletes many at once', store.bulkDelete),
    say('pages', store.listPaging),
    say('begins behind a key', store.listStart),
    say('versions', store.versioning),
    say('lock by default', store.objectLock),
    say('this key may delete', store.mayDelete),
  ];
  return [
    ['Store', `tried ${store.probedAt} by walkeep ${store.walkeep}`],
    ['', traits.join(' · ')],
    ...store.weak.map((text): Line => ['', `weak: ${text}`]),
  ];
}

const MOST_LINES = 20;

function barmanLines({ barman: { shown, unreadable, blocking } }: RepositoryDescription): Line[] {
  const lines: Line[] =
    blocking.length > 0
      ? blocking.map(({ folder, why }): Line => [
          'barman-cloud',
          `sees nothing, because of ${folder}: ${why}`,
        ])
      : [['barman-cloud', `lists ${shown.length} ${shown.length === 1 ? 'backup' : 'backups'}`]];
  lines.push(
    ...shown.map(({ id, name, status }): Line => [
      '',
      `${blocking.length > 0 ? 'would list ' : ''}${id}${name === undefined ? '' : ` (${name})`} ${status}`,
    ]),
    ...unreadable.map(({ folder, why }): Line => ['', `passes over ${folder}: ${why}`]),
  );
  const more = lines.length - MOST_LINES;
  return more > 0 ? [...lines.slice(0, MOST_LINES), ['', `and ${more} more: see -o json`]] : lines;
}
