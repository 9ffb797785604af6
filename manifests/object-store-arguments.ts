import { ADDRESSING_STYLES, type AddressingStyle } from '../core/addressing-style.ts';
import { BackupError } from '../core/errors.ts';
import type { Destination } from './object-store-location.ts';
import type { BarmanObjectStore } from './object-store.ts';
import type { FieldPath, Finding } from './problem.ts';

/** What barman's options say that CNPG has no field for. */
export interface StoreArguments {
  /** Of AWS: the key of KMS for what is written with `aws:kms`. */
  readonly kmsKeyId?: string;
  /** Of an S3 server. */
  readonly addressingStyle?: AddressingStyle;
  /** Of Google: the key of Cloud KMS that encrypts what is written. */
  readonly kmsKeyName?: string;
  /** Of Azure: the scope that encrypts what is written. */
  readonly encryptionScope?: string;
}

/** The lists of arguments, and whether they are of a command that writes. */
const LISTS = [
  { section: 'data', field: 'additionalCommandArgs', writes: true },
  { section: 'wal', field: 'archiveAdditionalCommandArgs', writes: true },
  { section: 'data', field: 'restoreAdditionalCommandArgs', writes: false },
  { section: 'wal', field: 'restoreAdditionalCommandArgs', writes: false },
] as const;
type List = (typeof LISTS)[number];

/** What is acted on, by kind of store; all else in the lists does nothing here. */
const OPTIONS = [
  { option: '--sse-kms-key-id', name: 'kmsKeyId', kind: 's3', writesOnly: true },
  { option: '--addressing-style', name: 'addressingStyle', kind: 's3', writesOnly: false },
  { option: '--kms-key-name', name: 'kmsKeyName', kind: 'gs', writesOnly: true },
  { option: '--encryption-scope', name: 'encryptionScope', kind: 'azure', writesOnly: true },
] as const;
type Option = (typeof OPTIONS)[number];

type Given = Pick<BarmanObjectStore, 'data' | 'wal'>;

/**
 * The options among barman's arguments that are acted on. A store has one of each.
 *
 * @throws BackupError `manifest-invalid` for a style of addressing that there is none of
 */
export function storeArguments(store: Given, kind: Destination['kind']): StoreArguments {
  const found: Partial<Record<Option['name'], string>> = {};
  for (const option of OPTIONS) {
    const value = option.kind === kind ? valuesOf(store, option)[0] : undefined;
    if (value !== undefined) found[option.name] = value;
  }
  const { addressingStyle, ...rest } = found;
  if (addressingStyle === undefined) return rest;
  const style = ADDRESSING_STYLES.find((known) => known === addressingStyle);
  if (style !== undefined) return { ...rest, addressingStyle: style };
  throw new BackupError('manifest-invalid', WRONG_STYLE.message, { hint: WRONG_STYLE.fix });
}

const WRONG_STYLE = {
  message: `--addressing-style expects one of ${ADDRESSING_STYLES.join(', ')}`,
  fix: 'correct it, or remove it: AWS is then asked by virtual hosts, an endpointURL by path',
};

/** @param path of the store in its manifest */
export function reviewArguments(
  store: Given,
  destination: Destination | undefined,
  path: FieldPath,
): Finding[] {
  const findings: Finding[] = [];
  for (const list of LISTS) {
    const ignored = ignoredOf(wordsOf(store, list), list, destination);
    if (ignored.length === 0) continue;
    findings.push({
      path: [...path, list.section, list.field],
      message: `these are arguments for barman's commands, which walkeep does not run; they do nothing here: ${ignored.join(', ')}`,
      fix: 'remove them, or keep them for CNPG',
      severity: 'warning',
    });
  }
  const acted = OPTIONS.filter(({ kind }) => kind === destination?.kind);
  return [...findings, ...acted.flatMap((option) => reviewOption(store, option, path))];
}

function reviewOption(store: Given, option: Option, path: FieldPath): Finding[] {
  const values = valuesOf(store, option);
  const [list] = LISTS.filter((one) => valueIn(wordsOf(store, one), option.option) !== undefined);
  if (list === undefined) return [];
  const at = [...path, list.section, list.field];
  const finding = (message: string, fix: string, severity: Finding['severity']) => ({
    path: at,
    message,
    fix,
    severity,
  });
  const findings: Finding[] = [];
  if (new Set(values).size > 1) {
    findings.push(
      finding(`${option.option} is given with different values; a store has one`, 'keep one value', 'error'),
    );
  }
  const isStyle = (value: string) => ADDRESSING_STYLES.some((style) => style === value);
  if (option.name === 'addressingStyle' && !values.every(isStyle))
    findings.push(finding(WRONG_STYLE.message, WRONG_STYLE.fix, 'error'));
  if (option.name === 'kmsKeyId' && ![store.data.encryption, store.wal.encryption].includes('aws:kms')) {
    findings.push(
      finding(
        '--sse-kms-key-id names a key, but neither data.encryption nor wal.encryption is aws:kms, so nothing is encrypted with it',
        'write encryption: aws:kms where the key is to be used',
        'error',
      ),
    );
  }
  return findings;
}

function wordsOf(store: Given, { section, field }: List): readonly string[] {
  if (section === 'data') return store.data[field] ?? [];
  return store.wal[field] ?? [];
}

function valuesOf(store: Given, { option, writesOnly }: Option): string[] {
  return LISTS.filter(({ writes }) => writes || !writesOnly).flatMap((list) => {
    const value = valueIn(wordsOf(store, list), option);
    return value === undefined ? [] : [value];
  });
}

/** Of several the last one counts, as with barman. */
function valueIn(words: readonly string[], option: string): string | undefined {
  const values = words.flatMap((word, at) => {
    if (word.startsWith(`${option}=`)) return [word.slice(option.length + 1)];
    const next = words[at + 1];
    return word === option && next !== undefined ? [next] : [];
  });
  return values.at(-1);
}

/** The names of what does nothing; never values, which may be anything. */
function ignoredOf(words: readonly string[], list: List, destination: Destination | undefined): string[] {
  const acted = OPTIONS.filter(
    ({ kind, writesOnly }) => kind === destination?.kind && (list.writes || !writesOnly),
  ).map(({ option }): string => option);
  const ignored: string[] = [];
  for (let at = 0; at < words.length; at++) {
    const [name = ''] = (words[at] ?? '').split('=', 1);
    if (acted.includes(name)) {
      if (words[at] === name) at += 1;
      continue;
    }
    const shown = /^--?[A-Za-z][A-Za-z0-9-]{0,40}$/.test(name) ? name : undefined;
    // a value stands behind its option, which is named
    if (shown !== undefined) ignored.push(shown);
    else if (at === 0) ignored.push('(not an option)');
  }
  return ignored;
}
