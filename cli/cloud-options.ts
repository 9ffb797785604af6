import { ADDRESSING_STYLES } from '../core/addressing-style.ts';
import { BackupError } from '../core/errors.ts';
import { parseWalFileName } from '../core/segment.ts';
import type { WalStorage } from '../operations/archive-wal.ts';
import { CODECS, type Codec } from '../streams/codec.ts';
import type { CloudArguments, CloudOption } from './cloud-arguments.ts';

const UNUSED = 'Accepted, and without a meaning here';

const GENERAL: readonly CloudOption[] = [
  { names: ['-V', '--version'], help: 'Print the version.' },
  { names: ['-h', '--help'], help: 'Print this.' },
  { names: ['-v', '--verbose'], help: 'Also say on standard error what was done.' },
  { names: ['-q', '--quiet'], help: `${UNUSED}: failures are always said, in one line.` },
  { names: ['-t', '--test'], help: 'Only look whether the repository can be read.' },
  {
    names: ['--cloud-provider'],
    value: 'PROVIDER',
    choices: ['aws-s3', 'azure-blob-storage', 'google-cloud-storage'],
    help: 'aws-s3, azure-blob-storage or google-cloud-storage. Without it the URL tells.',
  },
  {
    names: ['--endpoint-url'],
    value: 'URL',
    help: 'S3: the address of a server that is not AWS. Other providers pass it over, as with barman.',
  },
  {
    names: ['--profile', '-P', '--aws-profile'],
    value: 'PROFILE',
    help: 'S3: the profile of the AWS configuration to take keys and region from.',
  },
  {
    names: ['--read-timeout'],
    value: 'SECONDS',
    help: 'S3: how long the server may be silent; 30 unless given. See --deadline, too.',
  },
  {
    names: ['--addressing-style'],
    value: 'STYLE',
    choices: ADDRESSING_STYLES,
    help: 'S3: whether the bucket stands in the host name (virtual) or in the path. auto, and without it: AWS is asked by virtual hosts, an --endpoint-url by path.',
  },
  {
    names: ['--default', '--credential', '--azure-credential'],
    value: 'CREDENTIAL',
    choices: ['azure-cli', 'managed-identity', 'default'],
    help: 'Azure: managed-identity, azure-cli (whoever ran az login here), or default, which tries all ways.',
  },
];

const OWN: readonly CloudOption[] = [
  {
    names: ['--exit-codes'],
    value: 'WHOSE',
    choices: ['walkeep', 'barman'],
    help: 'walkeep (default) or barman; see below.',
  },
  {
    names: ['--deadline'],
    value: 'SECONDS',
    help: "walkeep's own: give up after this time.",
  },
];

/** Levels by barman's names for them. */
const LEVELS = { low: 0, medium: 1, high: 2 } as const;
type LevelName = keyof typeof LEVELS;

/** What can be given for a codec: barman's low, medium and high, and the limits that other numbers are brought into. */
const LEVELS_OF: Partial<
  Record<Codec, { named: readonly [number, number, number]; least: number; most: number }>
> = {
  gzip: { named: [1, 6, 9], least: 1, most: 9 },
  bzip2: { named: [1, 5, 9], least: 1, most: 9 },
  xz: { named: [1, 3, 5], least: 1, most: 9 },
  zstd: { named: [1, 4, 9], least: 1, most: 19 },
};

const LETTERS: Partial<Record<Codec, string>> = { gzip: '-z', bzip2: '-j' };

const COMPRESSION: readonly CloudOption[] = CODECS.filter((codec) => codec !== 'none').map((codec) => {
  const letter = LETTERS[codec];
  const help = `Compress with ${codec}.`;
  return letter === undefined
    ? { names: [`--${codec}`], group: 'compression', help }
    : { names: [letter, `--${codec}`], group: 'compression', help };
});

export const ARCHIVE_OPTIONS: readonly CloudOption[] = [
  ...GENERAL,
  ...COMPRESSION,
  {
    names: ['--compression-level'],
    value: 'LEVEL',
    help: 'low, medium, high, or a number, which is brought into what the codec has. snappy and lz4 have one level.',
  },
  {
    names: ['--tags'],
    value: 'KEY,VALUE…',
    many: true,
    group: 'tags',
    help: 'Tags of what is stored. Takes all words up to the next option.',
  },
  { names: ['--tag'], value: 'KEY,VALUE', group: 'tags', help: 'A tag; may be repeated.' },
  {
    names: ['--history-tags'],
    value: 'KEY,VALUE…',
    many: true,
    group: 'history-tags',
    help: 'Tags of timeline histories, instead of the others.',
  },
  {
    names: ['--history-tag'],
    value: 'KEY,VALUE',
    group: 'history-tags',
    help: 'One of them; may be repeated.',
  },
  {
    names: ['-e', '--encryption'],
    value: 'ALGORITHM',
    choices: ['AES256', 'aws:kms'],
    help: 'S3: AES256 or aws:kms, the encryption that is asked of the server.',
  },
  {
    names: ['--sse-kms-key-id'],
    value: 'ID',
    help: 'S3: the key of AWS KMS to encrypt with; needs -e aws:kms.',
  },
  { names: ['--encryption-scope'], value: 'SCOPE', help: 'Azure: the encryption scope.' },
  { names: ['--kms-key-name'], value: 'NAME', help: 'Google: the key of Cloud KMS.' },
  { names: ['--max-block-size'], value: 'SIZE', help: `${UNUSED}: walkeep chooses sizes by itself.` },
  { names: ['--max-concurrency'], value: 'NUMBER', help: `${UNUSED}.` },
  { names: ['--max-single-put-size'], value: 'SIZE', help: `${UNUSED}.` },
  ...OWN,
];

export const RESTORE_OPTIONS: readonly CloudOption[] = [
  ...GENERAL,
  {
    names: ['--no-partial'],
    help: 'Never take SEGMENT.partial for SEGMENT. Without it that is done where the whole segment is proved absent.',
  },
  {
    names: ['-p', '--parallel'],
    value: 'NUMBER',
    help: `${UNUSED}: one file is fetched, the one that was asked for.`,
  },
  {
    names: ['--spool-dir'],
    value: 'DIRECTORY',
    help: `${UNUSED}: nothing is taken from a spool, in which other clusters' WAL may lie.`,
  },
  ...OWN,
];

/** Milliseconds. @throws BackupError `usage` */
export function deadlineMsOf(args: CloudArguments): number | undefined {
  const given = args.value('--deadline');
  if (given === undefined) return undefined;
  const seconds = Number(given);
  if (Number.isFinite(seconds) && seconds > 0 && seconds <= 86_400) return seconds * 1000;
  throw new BackupError('usage', '--deadline expects a number of seconds');
}

/** The limits and sizes that mean nothing here have to be numbers all the same. @throws BackupError `usage` */
export function requireNumbers(args: CloudArguments): void {
  for (const name of ['--read-timeout', '--max-concurrency', '--parallel'])
    for (const value of args.values(name))
      if (!/^\d{1,9}$/.test(value)) throw new BackupError('usage', `${name} expects a whole number`);
}

/** `name` itself, when PostgreSQL can have asked for it. @throws BackupError `usage` */
export function requireWalName(name: string): string {
  if (parseWalFileName(name)) return name;
  // nothing else is shown: a secret may stand in the wrong place
  const shown = /^[0-9A-Fa-f]{8,24}(\.[0-9A-Za-z.]{1,16})?$/.test(name) ? `"${name}"` : 'what was given';
  throw new BackupError('usage', `${shown} is not the name of a WAL file`, {
    hint: 'archive_command has to pass %p, restore_command %f and %p, and PostgreSQL alone names the file',
  });
}

/** How the file is to be stored. @throws BackupError `usage` for what would be stored otherwise than it was asked for */
export function walStorageOf(args: CloudArguments, kind: 's3' | 'azure' | 'gs' | 'file'): WalStorage {
  const codec = CODECS.find((candidate) => candidate !== 'none' && args.has(`--${candidate}`)) ?? 'none';
  const level = levelOf(args.value('--compression-level'), codec);
  const encryption = args.value('--encryption');
  requireFittingEncryption(args, kind);
  const tags = tagsOf(args, '--tags', '--tag');
  const historyTags = tagsOf(args, '--history-tags', '--history-tag');
  return {
    codec,
    ...(level === undefined ? {} : { level }),
    ...(encryption === 'AES256' || encryption === 'aws:kms' ? { encryption } : {}),
    ...(tags === undefined ? {} : { tags }),
    ...(historyTags === undefined ? {} : { historyTags }),
  };
}

function levelOf(given: string | undefined, codec: Codec): number | undefined {
  const text = (given ?? 'medium').toLowerCase();
  const isNamed = (name: string): name is LevelName => Object.hasOwn(LEVELS, name);
  if (!isNamed(text) && !/^-?\d{1,3}$/.test(text))
    throw new BackupError('usage', '--compression-level expects low, medium, high or a number');
  const levels = LEVELS_OF[codec];
  if (levels === undefined) return undefined;
  if (isNamed(text)) return levels.named[LEVELS[text]];
  return Math.min(levels.most, Math.max(levels.least, Number(text)));
}

function requireFittingEncryption(args: CloudArguments, kind: 's3' | 'azure' | 'gs' | 'file'): void {
  for (const [name, needed, provider] of [
    ['--encryption', 's3', 'aws-s3'],
    ['--sse-kms-key-id', 's3', 'aws-s3'],
    ['--encryption-scope', 'azure', 'azure-blob-storage'],
    ['--kms-key-name', 'gs', 'google-cloud-storage'],
  ] as const) {
    if (!args.has(name) || kind === needed) continue;
    throw new BackupError('usage', `${name} is only known to ${provider}, and would not be heeded here`, {
      hint: 'leave it out; nothing was stored without the encryption that was asked for',
    });
  }
  if (args.has('--sse-kms-key-id') && args.value('--encryption') !== 'aws:kms') {
    throw new BackupError('usage', '--sse-kms-key-id names a key, which only -e aws:kms uses', {
      hint: 'add -e aws:kms; nothing was stored without the encryption that was asked for',
    });
  }
}

/** Tags as AWS has them, since barman holds all providers to that. */
function tagsOf(args: CloudArguments, list: string, one: string): Record<string, string> | undefined {
  const given = [...args.values(list), ...args.values(one)].filter((text) => text !== '');
  if (given.length === 0) return undefined;
  const name = args.has(list) ? list : one;
  return Object.fromEntries(given.map((text) => parseTag(text, name)));
}

function parseTag(text: string, name: string): [string, string] {
  const comma = text.indexOf(',');
  const [key, value] = [text.slice(0, comma).trim(), text.slice(comma + 1).trim()];
  const isPlain = [key, value].every((part) => /^[A-Za-z0-9\s_.:/=+\-@]*$/.test(part));
  const isFitting =
    comma >= 0 && isPlain && key !== '' && key.length <= 128 && value.length <= 256 && !/^aws:/i.test(key);
  if (isFitting) return [key, value];
  throw new BackupError('usage', `${name} expects KEY,VALUE of letters, digits, blanks and _.:/=+-@`, {
    hint: `key up to 128 characters and not beginning with aws:, value up to 256. ${list(name)}`,
  });
}

const list = (name: string): string =>
  name.endsWith('s')
    ? `${name} takes all words up to the next option: put one behind the tags`
    : 'Repeat it for more';
