import { once } from 'node:events';
import {
  isEmpty,
  surveyRepository,
  total,
  type Amount,
  type Survey,
} from '../operations/survey-repository.ts';
import type { Repository } from '../repository/repository.ts';
import { formatBytes, formatTable, note, printable } from './output.ts';

/** Prints what lies in a repository: counted, or with `long` object by object as it comes. */
export async function listRepository(
  r: Repository,
  prefix: string,
  { long, output }: { readonly long?: true; readonly output?: 'json' },
  signal: AbortSignal,
): Promise<void> {
  if (long) {
    const survey = await (output === 'json'
      ? printAsJson(r, prefix, signal)
      : printObjects(r, prefix, signal));
    if (isEmpty(survey)) noteNothing(r, prefix);
    return;
  }
  const survey = await surveyRepository(r, signal, { prefix });
  if (isEmpty(survey)) noteNothing(r, prefix);
  if (output === 'json') process.stdout.write(`${JSON.stringify(asJson(survey), undefined, 2)}\n`);
  else if (!isEmpty(survey)) process.stdout.write(formatSurvey(survey));
}

function noteNothing({ url }: Repository, prefix: string): void {
  note(
    prefix === ''
      ? `walkeep: nothing lies at ${url}: is the server name right?`
      : `walkeep: nothing at ${url} begins with "${prefix}"`,
  );
}

/** Whoever reads slowly is waited for: a repository may have millions of objects. */
async function print(text: string): Promise<void> {
  if (!process.stdout.write(text)) await once(process.stdout, 'drain');
}

async function printObjects(r: Repository, prefix: string, signal: AbortSignal): Promise<Survey> {
  const skipped = r.server.length + 1;
  return surveyRepository(r, signal, {
    prefix,
    onObject: ({ key, sizeBytes, modifiedAt }, kind) =>
      print(
        `${String(sizeBytes).padStart(14)}  ${modifiedAt.toISOString().slice(0, 19)}Z  ${kind.padEnd(8)}  ${printable(key.slice(skipped)).replaceAll('\n', '\ufffd')}\n`,
      ),
  });
}

/** One array whose elements are lines, so that nobody has to hold all of it. */
async function printAsJson(r: Repository, prefix: string, signal: AbortSignal): Promise<Survey> {
  const skipped = r.server.length + 1;
  let before = '[\n';
  const survey = await surveyRepository(r, signal, {
    prefix,
    async onObject({ key, sizeBytes, modifiedAt }, kind) {
      const object = { key: key.slice(skipped), kind, sizeBytes, storedAt: modifiedAt.toISOString() };
      await print(`${before}  ${JSON.stringify(object)}`);
      before = ',\n';
    },
  });
  await print(before === '[\n' ? '[]\n' : '\n]\n');
  return survey;
}

function asJson(survey: Survey): unknown {
  return { ...survey, own: Object.fromEntries(survey.own) };
}

/** For people. Pure. */
export function formatSurvey(survey: Survey): string {
  const { backups, timelines, histories, own, strangers, hazards, secondCopies } = survey;
  const amount = ({ count, bytes }: Amount) => [String(count), formatBytes(bytes)];
  const rows: string[][] = [
    ...backups.map(({ folder, hasRecord, ...rest }) => [
      'backup',
      folder,
      ...amount(rest),
      hasRecord ? '' : 'no backup.info',
    ]),
    ...timelines.map(({ timeline, first, last, ...rest }) => [
      'wal',
      `timeline ${timeline}`,
      ...amount(rest),
      first === undefined ? 'no whole segment' : `${first} to ${last ?? ''}`,
    ]),
    ...(histories.count > 0
      ? [['histories', `timelines ${histories.timelines.join(', ')}`, ...amount(histories), '']]
      : []),
    ...[...own].map(([name, rest]) => ['walkeep', name, ...amount(rest), '']),
    ...strangerRows('stranger', strangers, amount),
    ...strangerRows('hazard', hazards, amount),
  ];
  if (rows.length === 0) return 'nothing lies there\n';
  const all = total([...backups, ...timelines, histories, ...own.values(), strangers, hazards]);
  const second =
    secondCopies.count > 0
      ? `${secondCopies.count} WAL ${secondCopies.count === 1 ? 'name has' : 'names have'} a second object: ${secondCopies.names.join(', ')}\n`
      : '';
  const table = formatTable(['KIND', 'WHAT', 'OBJECTS', 'SIZE', ''], rows);
  return `${table}\n${all.count} objects, ${formatBytes(all.bytes)}\n${printable(second)}`;
}

function strangerRows(
  kind: string,
  found: Survey['strangers'],
  amount: (found: Amount) => string[],
): string[][] {
  return found.count > 0 ? [[kind, found.keys.slice(0, 3).join(', '), ...amount(found), '']] : [];
}
