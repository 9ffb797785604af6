import { describe, expect, it } from 'vitest';
import { describeOptions, parseCloudArguments, type CloudOption } from '../../cli/cloud-arguments.ts';
import {
  archiveExitCode,
  restoreExitCode,
  wantedExitCodes,
  type CloudOutcome,
} from '../../cli/cloud-exit-codes.ts';
import {
  ARCHIVE_OPTIONS,
  deadlineMsOf,
  requireNumbers,
  requireWalName,
  RESTORE_OPTIONS,
  walStorageOf,
} from '../../cli/cloud-options.ts';
import { isBackupError } from '../../core/errors.ts';
import { CODECS } from '../../streams/codec.ts';

const parse = (argv: readonly string[], options: readonly CloudOption[] = ARCHIVE_OPTIONS) =>
  parseCloudArguments(argv, options, 'see --help');

/** The message of a refusal, which has to be one of the command line. */
function refusal(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (isBackupError(error, 'usage')) return `${error.message}; ${error.hint}`;
    throw error;
  }
  throw new Error('it was not refused');
}

describe('the command line of the drop-ins', () => {
  it('is read as CloudNativePG writes it', () => {
    const args = parse(
      (
        '--gzip -e AES256 --endpoint-url http://s3:9000 --tags a,b c,d ' +
        '--history-tags h,1 --cloud-provider aws-s3 s3://b/p srv pg_wal/X'
      ).split(' '),
    );
    expect(args.operands).toEqual(['s3://b/p', 'srv', 'pg_wal/X']);
    expect(args.values('--tags')).toEqual(['a,b', 'c,d']);
    expect(args.values('--history-tags')).toEqual(['h,1']);
    expect(args.value('--encryption')).toBe('AES256');
    expect(args.value('--endpoint-url')).toBe('http://s3:9000');
  });

  it.for([
    ['options between and behind the words', ['u', '-z', 's', 'p', '--tag', 'a,b'], '--gzip', ''],
    ['a value behind =', ['--aws-profile=x', 'u', 's', 'p'], '--aws-profile', 'x'],
    ['a value stuck to a letter', ['-Px', 'u', 's', 'p'], '--aws-profile', 'x'],
    ['letters together', ['-vzPx', 'u', 's', 'p'], '--aws-profile', 'x'],
    ['an old name', ['--profile', 'x', 'u', 's', 'p'], '--aws-profile', 'x'],
    ['the beginning of a name', ['--read', '9', 'u', 's', 'p'], '--read-timeout', '9'],
    ['the last of several', ['-P', 'y', '--aws-profile', 'x', 'u', 's', 'p'], '--aws-profile', 'x'],
    ['a negative number', ['--compression-level', '-3', 'u', 's', 'p'], '--compression-level', '-3'],
    ['words behind --', ['--tags', 'a,b', '--', 'u', 's', 'p'], '--tags', 'a,b'],
  ] as const)('takes %s', ([, argv, name, value]) => {
    const args = parse(argv);
    expect(args.operands).toEqual(['u', 's', 'p']);
    expect(args.has(name)).toBe(true);
    expect(args.value(name) ?? '').toBe(value);
  });

  it('counts what is repeated', () => {
    expect(parse(['-vv', '--verbose']).count('--verbose')).toBe(3);
    expect(parse(['--tag', 'a,b', '--tag', 'c,d']).values('--tag')).toEqual(['a,b', 'c,d']);
  });

  it.for([
    [['--frob'], 'unknown option --frob'],
    [['-y'], 'unknown option -y'],
    [['-P'], '--aws-profile needs a value'],
    [['-P', '--gzip'], '--aws-profile needs a value'],
    [['--gzip=9'], '--gzip takes no value'],
    [['--gzip', '--lz4'], "--gzip and --lz4 can't be given together"],
    [['--tags', 'a,b', '--tag', 'c,d'], "--tags and --tag can't be given together"],
    [['--cloud-provider', 'minio'], '--cloud-provider expects one of aws-s3'],
    [['-e', 'rot13'], '--encryption expects one of AES256'],
    [['--exit-codes', 'mine'], '--exit-codes expects one of walkeep, barman'],
    [['--max'], '--max may be any of --max-block-size, --max-concurrency, --max-single-put-size'],
  ] as const)('%j is refused: %s', ([argv, message]) => {
    expect(refusal(() => parse(argv))).toContain(message);
  });

  it('S1: a refusal holds nothing of what was given', () => {
    const secret = 'wJalrXUtnFEMI/K7MDENG';
    for (const argv of [
      [`--aws-secret=${secret}`],
      [`--${secret}`],
      ['--cloud-provider', secret],
      ['-e', secret],
      [`--gzip=${secret}`],
      [`-y${secret}`],
    ])
      expect(refusal(() => parse(argv))).not.toContain(secret);
    for (const argv of [
      ['--tag', secret],
      ['--compression-level', secret],
    ])
      expect(refusal(() => walStorageOf(parse(argv), 's3'))).not.toContain(secret);
    expect(refusal(() => requireNumbers(parse(['--read-timeout', secret])))).not.toContain(secret);
    expect(refusal(() => deadlineMsOf(parse(['--deadline', secret])))).not.toContain(secret);
    expect(refusal(() => requireWalName(`${secret}${secret}`))).not.toContain(secret);
  });

  it('every option is in the help, but for names that are spelt otherwise today', () => {
    for (const options of [ARCHIVE_OPTIONS, RESTORE_OPTIONS]) {
      const text = describeOptions(options);
      for (const name of options.flatMap(({ names }) => names)) expect(text).toContain(name);
    }
  });
});

describe('how a file is to be stored', () => {
  const storage = (...argv: string[]) => walStorageOf(parse(argv), 's3');

  it('has every codec that walkeep writes', () => {
    for (const codec of CODECS)
      expect(storage(...(codec === 'none' ? [] : [`--${codec}`])).codec).toBe(codec);
    expect(storage('-z').codec).toBe('gzip');
    expect(storage('-j').codec).toBe('bzip2');
  });

  it.for([
    [['-z'], 6],
    [['-z', '--compression-level', 'LOW'], 1],
    [['-z', '--compression-level', '99'], 9],
    [['--zstd', '--compression-level=-7'], 1],
    [['--zstd', '--compression-level', '22'], 19],
    [['--xz', '--compression-level', 'high'], 5],
    [['-j'], 5],
    [['--snappy', '--compression-level', '4'], undefined],
    [['--compression-level', '4'], undefined],
  ] as const)("%j is level %s, as barman's", ([argv, level]) => {
    expect(storage(...argv).level).toBe(level);
  });

  it('has the tags, and those of histories only where they are given', () => {
    expect(storage('--tags', ' a, b c ', '-z')).toMatchObject({ tags: { a: 'b c' } });
    expect(storage('--tag', 'a,b', '--tag', 'c,', '--history-tag', 'h,1')).toMatchObject({
      tags: { a: 'b', c: '' },
      historyTags: { h: '1' },
    });
    expect(storage('--tags')).not.toHaveProperty('tags');
  });

  it.for([
    [['--tag', 'novalue'], '--tag expects KEY,VALUE'],
    [['--tags', 'a,b', 's3://bucket/p'], '--tags takes all words up to the next option'],
    [['--tag', 'aws:x,1'], '--tag expects KEY,VALUE'],
    [['--tag', `${'k'.repeat(129)},v`], '--tag expects KEY,VALUE'],
    [['--tag', 'k,ü'], '--tag expects KEY,VALUE'],
    [['--compression-level', 'best'], '--compression-level expects'],
    [['-e', 'AES256', '--sse-kms-key-id', 'k'], 'add -e aws:kms'],
    [['--sse-kms-key-id', 'k'], 'add -e aws:kms'],
    [['--encryption-scope', 's'], 'only known to azure-blob-storage'],
    [['--kms-key-name', 's'], 'only known to google-cloud-storage'],
  ] as const)('%j is refused, for it would be stored otherwise: %s', ([argv, message]) => {
    expect(refusal(() => storage(...argv))).toContain(message);
  });

  it('asks for encryption where the provider has it, and nowhere else', () => {
    expect(storage('-e', 'aws:kms').encryption).toBe('aws:kms');
    for (const kind of ['azure', 'gs', 'file'] as const)
      expect(refusal(() => walStorageOf(parse(['-e', 'AES256']), kind))).toContain('only known to aws-s3');
    expect(storage('-e', 'aws:kms', '--sse-kms-key-id', 'k').encryption).toBe('aws:kms');
    expect(refusal(() => walStorageOf(parse(['--sse-kms-key-id', 'k']), 'gs'))).toContain(
      'only known to aws-s3',
    );
    expect(walStorageOf(parse(['--encryption-scope', 's']), 'azure').codec).toBe('none');
    expect(walStorageOf(parse(['--kms-key-name', 's']), 'gs').codec).toBe('none');
  });
});

describe('the exit codes of the drop-ins', () => {
  const outcomes: readonly CloudOutcome[] = [
    'done',
    'absent',
    'usage',
    'no-connection',
    'no-bucket',
    'failed',
  ];

  it('A1: archive answers 0 for what is archived alone, and stays below 126', () => {
    for (const codes of ['walkeep', 'barman'] as const)
      for (const outcome of outcomes) {
        const code = archiveExitCode(outcome, codes);
        expect(code === 0).toBe(outcome === 'done');
        expect(code).toBeLessThan(126);
      }
  });

  it('C3: restore answers 1 for absence alone, else over 125 in a recovery, and 2 to 125 on a standby', () => {
    for (const outcome of outcomes) {
      const [recovery, standby] = [false, true].map((is) => restoreExitCode(outcome, 'walkeep', is));
      if (outcome === 'done' || outcome === 'absent')
        expect([recovery, standby]).toEqual(outcome === 'done' ? [0, 0] : [1, 1]);
      else {
        expect(recovery).toBeGreaterThan(125);
        expect(standby).toBeGreaterThan(1);
        expect(standby).toBeLessThan(126);
      }
    }
  });

  it("barman's are told only to who asks for them, whatever else is wrong", () => {
    expect(outcomes.map((outcome) => restoreExitCode(outcome, 'barman', true))).toEqual([0, 1, 3, 2, 1, 4]);
    expect(wantedExitCodes(['--frob', '--exit-codes=barman'])).toBe('barman');
    expect(wantedExitCodes(['--exit-codes', 'barman'])).toBe('barman');
    for (const argv of [[], ['--exit-codes'], ['--exit-codes', 'x'], ['barman']])
      expect(wantedExitCodes(argv)).toBe('walkeep');
  });
});
