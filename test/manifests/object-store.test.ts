import { describe, expect, it, test } from 'vitest';
import { clusterWithStore, loadText } from './load-text.ts';

const KEYS = 'accessKeyId: {name: s, key: A}, secretAccessKey: {name: s, key: B}';

function errorsOf(fields: string, destinationPath?: string) {
  return loadText(clusterWithStore(fields, destinationPath)).problems.filter(
    ({ severity }) => severity === 'error',
  );
}

function warningsOf(fields: string, destinationPath?: string) {
  return loadText(clusterWithStore(fields, destinationPath)).problems.filter(
    ({ severity }) => severity === 'warning',
  );
}

describe('credentials', () => {
  const AZURE = 'https://acct.blob.core.windows.net/box/pg';
  test.for([
    ['s3://b/p', `s3Credentials: {${KEYS}}`],
    ['s3://b/p', `s3Credentials: {${KEYS}, region: {name: s, key: R}, sessionToken: {name: s, key: T}}`],
    ['s3://b/p', 's3Credentials: {inheritFromIAMRole: true}'],
    ['gs://b/p', 'googleCredentials: {gkeEnvironment: true}'],
    ['gs://b/p', 'googleCredentials: {applicationCredentials: {name: s, key: A}}'],
    [AZURE, 'azureCredentials: {connectionString: {name: s, key: A}}'],
    [AZURE, 'azureCredentials: {storageAccount: {name: s, key: A}, storageKey: {name: s, key: B}}'],
    [AZURE, 'azureCredentials: {storageAccount: {name: s, key: A}, storageSasToken: {name: s, key: B}}'],
    [AZURE, 'azureCredentials: {inheritFromAzureAD: true}'],
    [AZURE, 'azureCredentials: {useDefaultAzureCredentials: true}'],
    ['s3://b/p', ''],
    ['file:///srv/b', ''],
  ] as const)('%s with "%s" is accepted', ([path, fields]) => {
    expect(errorsOf(fields, path)).toEqual([]);
  });

  test.for([
    ['s3://b/p', 's3Credentials: {accessKeyId: {name: s, key: A}}', 'half a key pair'],
    ['s3://b/p', 's3Credentials: {secretAccessKey: {name: s, key: A}}', 'half a key pair'],
    ['s3://b/p', 's3Credentials: {}', 'neither keys nor inheritFromIAMRole'],
    ['s3://b/p', `s3Credentials: {${KEYS}, inheritFromIAMRole: true}`, 'only one of the two can be meant'],
    [
      's3://b/p',
      `s3Credentials: {${KEYS}}\ngoogleCredentials: {gkeEnvironment: true}`,
      'one kind of credentials',
    ],
    [
      'gs://b/p',
      `s3Credentials: {${KEYS}}`,
      's3Credentials are given, but gs://b/p is opened with googleCredentials',
    ],
    ['file:///b', `s3Credentials: {${KEYS}}`, 'is a directory and needs none'],
    ['gs://b/p', 'googleCredentials: {}', 'neither applicationCredentials nor gkeEnvironment'],
    [
      'gs://b/p',
      'googleCredentials: {gkeEnvironment: true, applicationCredentials: {name: s, key: A}}',
      'only one can be meant',
    ],
    [
      AZURE,
      'azureCredentials: {connectionString: {name: s, key: A}, storageAccount: {name: s, key: B}}',
      'connectionString holds everything',
    ],
    [AZURE, 'azureCredentials: {storageAccount: {name: s, key: A}}', 'no way to sign in'],
    [AZURE, 'azureCredentials: {storageKey: {name: s, key: A}}', 'storageKey needs storageAccount'],
    [
      AZURE,
      'azureCredentials: {inheritFromAzureAD: true, useDefaultAzureCredentials: true}',
      'only one can be meant',
    ],
  ] as const)('%s with "%s" is refused', ([path, fields, message]) => {
    expect(errorsOf(fields, path).map((problem) => problem.message)).toContainEqual(
      expect.stringContaining(message),
    );
  });

  it('that are missing are a warning: the provider has its own chain', () => {
    expect(warningsOf('')).toMatchObject([
      {
        field: 'spec.backup.barmanObjectStore',
        message: expect.stringContaining("the provider's own chain is used"),
      },
    ]);
    expect(warningsOf('', 'file:///srv/b')).toEqual([]);
  });

  it('S1: a key written into the manifest is refused without being shown', () => {
    const [problem] = errorsOf(
      's3Credentials: {accessKeyId: AKIAHUNTER2, secretAccessKey: {name: s, key: B}}',
    );
    expect(problem).toMatchObject({
      fix: 'write where the value is, never the value: {name: SECRET, key: KEY}',
    });
    expect(JSON.stringify(problem)).not.toContain('HUNTER2');
  });
});

describe('destinationPath and endpointURL', () => {
  it('S1: a password in an address is refused without being shown', () => {
    const problems = [
      ...errorsOf('', 'https://user:hunter2@minio/x'),
      ...errorsOf('endpointURL: https://user:hunter2@minio', 's3://b/p'),
      ...errorsOf('', 's3://AKIA:hunter2@b/p'),
    ];
    expect(problems).toHaveLength(3);
    expect(JSON.stringify(problems)).not.toContain('hunter2');
  });

  test.for([
    ['minio:9000', 'does not begin with https://'],
    ['ftp://x', 'does not begin with https://'],
    ['not an address', 'is no address'],
    ['https://x/?a=b', 'holds ?'],
  ] as const)('endpointURL %s is refused', ([url, message]) => {
    expect(errorsOf(`endpointURL: ${JSON.stringify(url)}`)).toMatchObject([
      { message: expect.stringContaining(message) },
    ]);
  });
});

describe('wal and data', () => {
  test.for(['xz', 'bzip2'])('WAL in %s is accepted with a note on what it takes', (codec) => {
    const { problems } = loadText(clusterWithStore(`wal: {compression: ${codec}}`, 'file:///b'));
    expect(problems.filter(({ severity }) => severity !== 'note')).toEqual([]);
    expect(problems.map(({ message }) => message).join()).toMatch(/within 60 s.*above 64 MiB/);
  });

  it('data in zstd is accepted with a note on who can restore it', () => {
    const { problems } = loadText(clusterWithStore('data: {compression: zstd}', 'file:///b'));
    expect(problems).toMatchObject([
      { severity: 'note', field: 'spec.backup.barmanObjectStore.destinationPath' },
      {
        severity: 'note',
        field: 'spec.backup.barmanObjectStore.data.compression',
        message: expect.stringContaining('3.20'),
      },
    ]);
  });

  test.for(['bzip2', 'gzip', 'lz4', 'snappy'])('%s needs no word, for WAL and for data', (codec) => {
    expect(warningsOf(`wal: {compression: ${codec}}\ndata: {compression: ${codec}}`, 'file:///b')).toEqual(
      [],
    );
  });

  it('archiveTimeout is taken as a wish, and told to be no field of CNPG', () => {
    expect(warningsOf('wal: {archiveTimeout: "5m"}', 'file:///b')).toMatchObject([
      {
        field: 'spec.backup.barmanObjectStore.wal.archiveTimeout',
        message: expect.stringContaining('300 s'),
      },
    ]);
    expect(errorsOf('wal: {archiveTimeout: soon}', 'file:///b')).toMatchObject([
      { message: '"soon" is no time' },
    ]);
  });

  test.for([
    ['wal: {maxParallel: 0}', '0 is too small', 'write 1 or more'],
    ['data: {jobs: "2"}', 'a number is expected, found "2"', 'write a whole number, without quotes'],
    ['data: {jobs: 1.5}', 'a whole number is expected, found 1.5', 'write a whole number, without quotes'],
    [
      'data: {compression: xz}',
      '"xz" is not allowed here',
      'allowed are "bzip2", "gzip", "lz4", "snappy" or "zstd"',
    ],
    [
      'wal: {encryption: aes256}',
      '"aes256" is not allowed here',
      'did you mean "AES256"? allowed are "AES256" or "aws:kms"',
    ],
    [
      'data: {immediateCheckpoint: maybe}',
      'true or false is expected, found "maybe"',
      'write true or false, without quotes',
    ],
    ['tags: {a: 1}', 'text is expected, found 1', 'put it in quotes: "1"'],
    [
      'serverName: ../other',
      '"../other" holds a folder "." or ".."',
      'write a folder name, such as the name of the cluster',
    ],
    ['serverName: ""', 'is empty', 'write a folder name, such as the name of the cluster'],
  ] as const)('%s is refused', ([fields, message, fix]) => {
    expect(errorsOf(fields, 'file:///b')).toMatchObject([{ message, fix }]);
  });

  it("barman's arguments are told to do nothing, but for the key of Google's KMS", () => {
    const wal = (words: string) =>
      `googleCredentials: {gkeEnvironment: true}\nwal: {archiveAdditionalCommandArgs: [${words}]}`;
    const data = (words: string) =>
      `googleCredentials: {gkeEnvironment: true}\ndata: {additionalCommandArgs: [${words}]}`;
    for (const given of [wal, data]) {
      expect(warningsOf(given('--kms-key-name, K'), 'gs://b/p')).toEqual([]);
      expect(warningsOf(given('--kms-key-name=K'), 'gs://b/p')).toEqual([]);
      expect(warningsOf(given('--kms-key-name=K, -v'), 'gs://b/p')).toHaveLength(1);
    }
    expect(warningsOf('wal: {archiveAdditionalCommandArgs: [--kms-key-name, K]}', 'file:///b')).toHaveLength(
      1,
    );
  });

  test.for([
    ['data: {encryption: aws:kms, additionalCommandArgs: [--sse-kms-key-id, k]}', undefined],
    [
      'data: {encryption: aws:kms, additionalCommandArgs: ["--sse-kms-key-id=k", "--addressing-style=path"]}',
      undefined,
    ],
    ['wal: {restoreAdditionalCommandArgs: [--addressing-style, virtual]}', undefined],
    // as barman wants it
    ['data: {additionalCommandArgs: ["--encryption=aws:kms", "--sse-kms-key-id=abc"]}', undefined],
    ['wal: {archiveAdditionalCommandArgs: [-e, "aws:kms", --sse-kms-key-id, abc]}', undefined],
    [
      'wal: {encryption: aws:kms, archiveAdditionalCommandArgs: ["-eaws:kms", --sse-kms-key-id=a]}',
      undefined,
    ],
    ['wal: {restoreAdditionalCommandArgs: [-e, "aws:kms"]}', /do nothing here: -e$/],
    // of a command that only reads
    ['wal: {restoreAdditionalCommandArgs: [--sse-kms-key-id, k]}', /do nothing here: --sse-kms-key-id$/],
    [
      'data: {additionalCommandArgs: [--read-timeout, "60", -J, "4", "--max-archive-size=1GB"]}',
      /: --read-timeout, -J, --max-archive-size$/,
    ],
    ['data: {additionalCommandArgs: [--encryption-scope, s]}', /: --encryption-scope$/],
    ['data: {additionalCommandArgs: [canary-in-the-wrong-place]}', /: \(not an option\)$/],
  ] as const)("what does nothing of barman's arguments is named, and no value: %s", ([fields, message]) => {
    const said = warningsOf(`s3Credentials: {inheritFromIAMRole: true}\n${fields}`, 's3://b/p');
    if (message === undefined) expect(said).toEqual([]);
    else expect(said).toMatchObject([{ message: expect.stringMatching(message) }]);
    expect(JSON.stringify(said)).not.toMatch(/canary|1GB/);
  });

  test.for([
    [
      'data: {additionalCommandArgs: [--sse-kms-key-id, k]}',
      /data\.encryption is not aws:kms, so no base backup would be encrypted/,
    ],
    [
      'data: {encryption: aws:kms}\nwal: {archiveAdditionalCommandArgs: [--sse-kms-key-id=k]}',
      /wal\.encryption is not aws:kms, so no WAL would be encrypted/,
    ],
    [
      'data: {additionalCommandArgs: [-e, AES256, --sse-kms-key-id, k]}',
      /data\.encryption is not aws:kms, so no base backup/,
    ],
    ['data: {additionalCommandArgs: ["--encryption=AES128"]}', /--encryption expects one of AES256, aws:kms/],
    [
      'wal: {encryption: AES256, archiveAdditionalCommandArgs: ["-eaws:kms"]}',
      /--encryption is aws:kms, but wal\.encryption is AES256/,
    ],
    [
      'data: {encryption: aws:kms, additionalCommandArgs: [--sse-kms-key-id]}',
      /--sse-kms-key-id comes without a value/,
    ],
    ['data: {additionalCommandArgs: [--addressing-style, fast]}', /expects one of auto, virtual, path/],
    [
      'data: {encryption: aws:kms, additionalCommandArgs: [--sse-kms-key-id, k]}\nwal: {encryption: aws:kms, archiveAdditionalCommandArgs: [--sse-kms-key-id, l]}',
      /different values/,
    ],
  ] as const)("barman's argument that can't be meant is refused: %s", ([fields, message]) => {
    expect(errorsOf(`s3Credentials: {inheritFromIAMRole: true}\n${fields}`, 's3://b/p')).toMatchObject([
      { message: expect.stringMatching(message) },
    ]);
  });

  test.for([
    'data: {additionalCommandArgs: ["--sse-kms-key-id=abc"]}',
    'data: {additionalCommandArgs: ["--encryption=AES128"]}',
    'data: {encryption: AES256, additionalCommandArgs: ["--encryption=aws:kms"]}',
    'data: {encryption: aws:kms, additionalCommandArgs: [--sse-kms-key-id]}',
    'wal: {encryption: aws:kms, archiveAdditionalCommandArgs: [--sse-kms-key-id=k]}, data: {encryption: aws:kms, additionalCommandArgs: [--sse-kms-key-id=l]}',
  ])('what can only be meant for writing keeps no external cluster away: %s', (fields) => {
    const store = `{destinationPath: s3://b/p, s3Credentials: {inheritFromIAMRole: true}, ${fields}}`;
    const { problems } = loadText(
      `${clusterWithStore('', 'file:///b')}\n  externalClusters: [{name: origin, barmanObjectStore: ${store}}]\n`,
    );
    const own = problems.filter(({ field }) => field?.startsWith('spec.externalClusters'));
    expect(own).toMatchObject([{ severity: 'warning', message: expect.stringMatching(/^--/) }]);
  });

  test.for(['30', '0d', '30 d', '1y', ''])('retentionPolicy "%s" is refused', (text) => {
    const { problems } = loadText(
      clusterWithStore('', 'file:///b').replace(
        'barmanObjectStore:',
        `retentionPolicy: "${text}"\n    barmanObjectStore:`,
      ),
    );
    expect(problems.find(({ severity }) => severity === 'error')).toMatchObject({
      field: 'spec.backup.retentionPolicy',
    });
  });
});
