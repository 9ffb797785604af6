import { ADDRESSING_STYLES, type AddressingStyle } from '../core/addressing-style.ts';
import { BackupError } from '../core/errors.ts';
import type { Destination } from './object-store-location.ts';
import type { BarmanObjectStore } from './object-store.ts';
import type { Fault, FieldPath, Finding } from './problem.ts';

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
  { names: ['--sse-kms-key-id'], is: 'kmsKeyId', kind: 's3', writesOnly: true },
  { names: ['--encryption', '-e'], is: 'encryption', kind: 's3', writesOnly: true },
  { names: ['--addressing-style'], is: 'addressingStyle', kind: 's3', writesOnly: false },
  { names: ['--kms-key-name'], is: 'kmsKeyName', kind: 'gs', writesOnly: true },
  { names: ['--encryption-scope'], is: 'encryptionScope', kind: 'azure', writesOnly: true },
] as const;
type Option = (typeof OPTIONS)[number];
/** `encryption` is one of base backups and one of WAL; of all else a store has one. */
type StoreOption = Exclude<Option, { readonly is: 'encryption' }>;

/** What an S3 server can be asked to encrypt with. */
export const ENCRYPTIONS = ['AES256', 'aws:kms'] as const;
export type Encryption = (typeof ENCRYPTIONS)[number];

type Given = Pick<BarmanObjectStore, 'data' | 'wal'>;
type Section = List['section'];

/** Whether a store is written to, or only read, as an entry of `externalClusters` is. */
export type StoreUse = 'written' | 'read';

/**
 * The options among barman's arguments that are acted on. A store has one of each: what a reading command says counts before
 * what a writing one does, since a store whose commands differ may only be read.
 *
 * @throws BackupError `manifest-invalid` for a style of addressing that there is none of
 */
export function storeArguments(store: Given, kind: Destination['kind']): StoreArguments {
  const found: Partial<Record<StoreOption['is'], string>> = {};
  for (const option of OPTIONS) {
    const [first] = option.kind === kind ? valuesOf(store, option) : [];
    if (first !== undefined && option.is !== 'encryption') found[option.is] = first.value;
  }
  const { addressingStyle, ...rest } = found;
  if (addressingStyle === undefined) return rest;
  const style = ADDRESSING_STYLES.find((known) => known === addressingStyle);
  if (style !== undefined) return { ...rest, addressingStyle: style };
  throw new BackupError('manifest-invalid', WRONG_STYLE.message, { hint: WRONG_STYLE.fix });
}

/** What base backups or WAL are encrypted with: by the field, else by `--encryption` among the arguments, as with barman. */
export function encryptionOf(store: Given | undefined, section: Section): Encryption | undefined {
  if (!store) return undefined;
  const asked = argumentOf(store, section, 'encryption');
  return store[section].encryption ?? ENCRYPTIONS.find((known) => known === asked);
}

const WRONG_STYLE = {
  message: `--addressing-style expects one of ${ADDRESSING_STYLES.join(', ')}`,
  fix: 'correct it, or remove it: AWS is then asked by virtual hosts, an endpointURL by path',
};

/**
 * What can't be meant is refused where data would be stored with less than was asked for. Where nothing is written it does no
 * harm, and keeps nobody from a restore.
 *
 * @param path of the store in its manifest
 */
export function reviewArguments(
  store: Given,
  destination: Destination | undefined,
  path: FieldPath,
  use: StoreUse,
): Finding[] {
  const severity = use === 'written' ? 'error' : 'warning';
  const findings: Finding[] = [];
  const add = (list: List, level: Finding['severity'], message: string, fix: string) =>
    findings.push({ path: [...path, list.section, list.field], message, fix, severity: level });
  for (const list of LISTS) {
    const { ignored, valueless } = readWords(wordsOf(store, list), list, destination?.kind);
    if (ignored.length > 0) {
      const message = `these are arguments for barman's commands, which walkeep does not run; they do nothing here: ${ignored.join(', ')}`;
      add(list, 'warning', message, 'remove them, or keep them for CNPG');
    }
    if (valueless.length > 0)
      add(list, severity, `${valueless.join(', ')} comes without a value`, 'write the value behind it');
    if (destination?.kind === 's3' && list.writes) {
      const { section } = list;
      for (const { message, fix } of encryptionFaults(store, section)) add(list, severity, message, fix);
    }
  }
  for (const option of OPTIONS) {
    if (option.kind !== destination?.kind || option.is === 'encryption') continue;
    const values = valuesOf(store, option);
    const [first] = values;
    if (!first) continue;
    if (option.is === 'addressingStyle' && !ADDRESSING_STYLES.some((style) => style === first.value)) {
      // Whoever reads has to find the way, too.
      add(first.list, 'error', WRONG_STYLE.message, WRONG_STYLE.fix);
    } else if (values.some(({ value }) => value !== first.value)) {
      const message = `${option.names[0]} is given with different values; a store has one`;
      add(first.list, severity, message, 'keep one value');
    }
  }
  return findings;
}

/** What is wrong with what a command that writes is asked to encrypt with. */
function encryptionFaults(store: Given, section: Section): Fault[] {
  const field = `${section}.encryption`;
  const asked = argumentOf(store, section, 'encryption');
  const declared = store[section].encryption;
  if (asked !== undefined && !ENCRYPTIONS.some((known) => known === asked)) {
    const fix = 'correct it: nothing is to be stored without the encryption that was asked for';
    return [{ message: `--encryption expects one of ${ENCRYPTIONS.join(', ')}`, fix }];
  }
  if (asked !== undefined && declared !== undefined && asked !== declared)
    return [{ message: `--encryption is ${asked}, but ${field} is ${declared}`, fix: 'keep one of the two' }];
  const hasKey = argumentOf(store, section, 'kmsKeyId') !== undefined;
  if (!hasKey || encryptionOf(store, section) === 'aws:kms') return [];
  const what = section === 'data' ? 'base backup' : 'WAL';
  return [
    {
      message: `--sse-kms-key-id names a key, but ${field} is not aws:kms, so no ${what} would be encrypted with it`,
      fix: `write ${section}: {encryption: aws:kms}, or remove the key`,
    },
  ];
}

/** What the command of `section` that writes is given. */
function argumentOf(store: Given, section: Section, is: Option['is']): string | undefined {
  const list = LISTS.find((one) => one.section === section && one.writes);
  return list && readWords(wordsOf(store, list), list, undefined).values.get(is);
}

function wordsOf(store: Given, { section, field }: List): readonly string[] {
  if (section === 'data') return store.data[field] ?? [];
  return store.wal[field] ?? [];
}

function valuesOf(store: Given, { is, writesOnly }: Option): { list: List; value: string }[] {
  return LISTS.filter(({ writes }) => writes || !writesOnly)
    .toSorted((a, b) => Number(a.writes) - Number(b.writes))
    .flatMap((list) => {
      const value = readWords(wordsOf(store, list), list, undefined).values.get(is);
      return value === undefined ? [] : [{ list, value }];
    });
}

interface ReadWords {
  /** Of several values of an option the last one counts, as with barman. */
  readonly values: ReadonlyMap<Option['is'], string>;
  /** Options that are acted on, but have no value. */
  readonly valueless: readonly string[];
  /** The names of what does nothing; never values, which may be anything. */
  readonly ignored: readonly string[];
}

/** @param kind of the store; without it options of all kinds are read */
function readWords(words: readonly string[], list: List, kind: Destination['kind'] | undefined): ReadWords {
  const values = new Map<Option['is'], string>();
  const valueless: string[] = [];
  const ignored: string[] = [];
  const acted = OPTIONS.filter(
    (option) => (kind === undefined || option.kind === kind) && (list.writes || !option.writesOnly),
  );
  for (let at = 0; at < words.length; at++) {
    const word = words[at] ?? '';
    const { name, attached } = splitWord(word);
    const option = acted.find(({ names }) => names.some((known) => known === name));
    if (option) {
      const value = attached ?? words[(at += 1)];
      if (value === undefined || value === '') valueless.push(name);
      else values.set(option.is, value);
      continue;
    }
    const shown = /^--?[A-Za-z][A-Za-z0-9-]{0,40}$/.test(name) ? name : undefined;
    // a value stands behind its option, which is named
    if (shown !== undefined) ignored.push(shown);
    else if (at === 0) ignored.push('(not an option)');
  }
  return { values, valueless, ignored };
}

/** `--name=value`, `-e=value` and `-evalue` hold their value, `--name` and `-e` stand before it. */
function splitWord(word: string): { name: string; attached?: string } {
  const [, short, rest] = /^(-[A-Za-z])=?(.+)$/s.exec(word) ?? [];
  if (short !== undefined && rest !== undefined && SHORT.has(short)) return { name: short, attached: rest };
  const equals = word.indexOf('=');
  return equals < 0 ? { name: word } : { name: word.slice(0, equals), attached: word.slice(equals + 1) };
}

const SHORT: ReadonlySet<string> = new Set(
  OPTIONS.flatMap(({ names }): readonly string[] => names).filter((name) => /^-[A-Za-z]$/.test(name)),
);
