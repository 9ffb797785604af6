import { describe, expect, it, test } from 'vitest';
import { scheduleOf } from '../../manifests/schedule.ts';
import { loadExamples, loadText, told } from './load-text.ts';

function scheduledBackup(fields: string, annotations = ''): string {
  return `apiVersion: postgresql.cnpg.io/v1
kind: ScheduledBackup
metadata: {name: daily, annotations: {${annotations}}}
spec:
  cluster: {name: orders}
${fields.replace(/^/gm, '  ')}
`;
}

function problemsOf(fields: string, annotations?: string) {
  return loadText(scheduledBackup(fields, annotations), { appliedClusters: ['default/orders'] }).problems;
}

describe('the schedule of a ScheduledBackup', () => {
  it('says how five fields are read, when they run, and what CNPG would do', () => {
    expect(told(loadExamples(['schedules.yaml'])).slice(1)).toEqual([
      'schedules.yaml:12: warning: spec.schedule: "0 2 * * *" has five fields and is read as ordinary cron; next runs: 2026-01-22 02:00, 2026-01-23 02:00, 2026-01-24 02:00 (UTC). CNPG itself takes the first field as seconds: it would run at 2026-01-21 11:02, 2026-01-21 12:02, 2026-01-21 13:02 (UTC)\n' +
        '    write "0 0 2 * * *" to mean the same to both, or the annotation walkeep.io/cron: unix (as read here) or cnpg',
      'schedules.yaml:21: note: spec.schedule: next runs: 2026-01-22 02:00, 2026-01-23 02:00, 2026-01-24 02:00 (Europe/Berlin)',
      'schedules.yaml:30: note: spec.schedule: "0 2 * * *" is read as CNPG (seconds first), as annotated; next runs: 2026-01-21 11:02, 2026-01-21 12:02, 2026-01-21 13:02 (UTC)',
      'schedules.yaml:32: warning: spec.backupOwnerReference: "none" does not keep backups for ever: it only says who owns the Backup object; retention deletes as ever\n' +
        '    to keep a backup put walkeep.io/hold: REASON on it; to keep more of them, rules in a BackupPolicy or a longer retentionPolicy',
    ]);
  });

  it('is given to those who run it as it was told', () => {
    const found = loadExamples(['schedules.yaml']).documents.flatMap((document) =>
      document.kind === 'ScheduledBackup' ? [scheduleOf(document.manifest)] : [],
    );
    expect(found.map(({ spec, timezone }) => [spec.dialect, timezone])).toEqual([
      ['unix', 'Etc/UTC'],
      ['cnpg', 'Europe/Berlin'],
      ['cnpg', 'Etc/UTC'],
    ]);
  });

  it('says that CNPG would refuse it, and why', () => {
    expect(problemsOf('schedule: "0 3 * * 0"')[0]?.message).toContain(
      'it would refuse it (Beginning of range (0) below minimum (1): 0)',
    );
  });

  test.for([
    ['schedule: "@reboot"', '"@reboot": Unrecognized descriptor: @reboot', 'six fields'],
    ['schedule: ""', '"": Empty spec string', 'such as "0 0 2 * * *"'],
    ['schedule: "0 25 * * *"', 'End of range (25) above maximum (23): 25', 'six fields'],
    ['schedule: "TZ=UTC 0 0 2 * * *"', 'Expected 5 to 6 fields, found 7', 'walkeep.io/timezone'],
    ['schedule: 5', 'text is expected, found 5', 'put it in quotes'],
    ['suspend: false', 'schedule is missing', 'schedule: "0 0 2 * * *"'],
  ] as const)('%s is refused', ([fields, message, fix]) => {
    expect(problemsOf(fields)).toMatchObject([
      { severity: 'error', message: expect.stringContaining(message), fix: expect.stringContaining(fix) },
    ]);
  });

  test.for([
    ['walkeep.io/cron: quartz', '"quartz" is no reading of a schedule'],
    ['walkeep.io/timezone: Europe/Berln', '"Europe/Berln" is no time zone'],
    ['walkeep.io/timezne: Europe/Berlin', 'walkeep has no such annotation'],
  ] as const)('annotation %s is refused', ([annotation, message]) => {
    expect(
      problemsOf('schedule: "@daily"', annotation).filter(({ severity }) => severity === 'error'),
    ).toMatchObject([{ message }]);
  });

  it('warns of one that never runs, and of one that runs all the time', () => {
    expect(problemsOf('schedule: "0 0 0 31 2 *"')).toMatchObject([
      { severity: 'note', message: 'next runs: never' },
      { severity: 'warning', message: expect.stringContaining('never runs') },
    ]);
    expect(problemsOf('schedule: "0 * * * * *"')[1]).toMatchObject({
      message: expect.stringContaining('runs every 60 s'),
    });
    expect(problemsOf('schedule: "0 0 * * * *"')).toHaveLength(1);
  });
});

describe('Backup and ScheduledBackup', () => {
  test.for([
    ['method: barman', '"barman" is not allowed here'],
    ['online: true', 'online belongs to method volumeSnapshot'],
    ['onlineConfiguration: {}', 'onlineConfiguration belongs to method volumeSnapshot'],
    ['method: plugin', 'method plugin needs pluginConfiguration'],
    ['target: standby', '"standby" is not allowed here'],
    ['backupOwnerReference: Cluster', '"Cluster" is not allowed here'],
    ['metod: plugin', 'there is no such field'],
  ] as const)('refuse %s', ([field, message]) => {
    const errors = problemsOf(`schedule: "@daily"\n${field}`).filter(({ severity }) => severity === 'error');
    expect(errors).toMatchObject([{ message: expect.stringContaining(message) }]);
  });

  test.for(['method: volumeSnapshot', 'method: plugin\npluginConfiguration: {name: x}'])(
    'accept %s, and warn',
    (field) => {
      expect(problemsOf(`schedule: "@daily"\n${field}`)[1]).toMatchObject({
        severity: 'warning',
        message: expect.stringContaining('accepted'),
      });
    },
  );

  test.for([
    'latest',
    'last-full',
    'auto',
    '20260121t020000',
    '../x',
    'a..b',
    'a/b',
    'X',
    '-a',
    'a'.repeat(254),
  ])('S2: a Backup named "%s" is refused', (name) => {
    const text = `apiVersion: postgresql.cnpg.io/v1\nkind: Backup\nmetadata: {name: ${JSON.stringify(name)}}\nspec: {cluster: {name: orders}}\n`;
    const { problems } = loadText(text, { appliedClusters: ['default/orders'] });
    expect(problems).toMatchObject([{ severity: 'error', field: 'metadata.name' }]);
  });

  it('has a hold by annotation, which must not be misspelt', () => {
    const text = (name: string) =>
      `apiVersion: postgresql.cnpg.io/v1\nkind: Backup\nmetadata: {name: a, annotations: {${name}: audit}}\nspec: {cluster: {name: orders}}\n`;
    const options = { appliedClusters: ['default/orders'] };
    expect(loadText(text('walkeep.io/hold'), options).problems).toEqual([]);
    expect(loadText(text('walkeep.io/hodl'), options).problems).toMatchObject([
      { fix: 'did you mean "walkeep.io/hold"?' },
    ]);
    expect(loadText(text('walkeep.io/cron'), options).problems).toMatchObject([{ severity: 'warning' }]);
  });
});

describe("walkeep's own kinds", () => {
  it('have the defaults of their page', () => {
    const { documents, problems } = loadExamples(['own-kinds.yaml'], { appliedClusters: ['default/orders'] });
    expect(problems.filter(({ severity }) => severity === 'error')).toEqual([]);
    expect(documents.map(({ manifest }) => ('spec' in manifest ? manifest.spec : undefined))).toMatchObject([
      {
        objectives: { rpo: '10m', backupAge: '26h', provenAge: '8d' },
        attempts: { maximum: 5, backoff: '1m', deadline: '12h' },
        retention: {
          keepLast: 7,
          daily: 7,
          weekly: 4,
          monthly: 12,
          yearly: 3,
          minimum: 2,
          schedules: {},
          onlyWithProvenSuccessor: false,
          grace: '24h',
          queue: null,
          timezone: 'Etc/UTC',
        },
        limits: { maxRate: null, jobs: null, nice: 10 },
      },
      {
        suspend: false,
        backup: 'latest',
        target: 'end',
        checks: { manifest: true, pageChecksums: true, amcheck: false, queries: [] },
        readBudget: '20%',
        queue: null,
        scratch: { directory: null, minFree: '20%' },
        deadline: '6h',
      },
      { configuration: { destinationPath: 's3://shop-backups/postgres' } },
    ]);
    expect(problems.filter(({ severity }) => severity === 'error')).toEqual([]);
  });

  test.for([
    ['retention: {keepLst: 3}', 'there is no such field'],
    ['retention: {minimum: 0}', '0 is too small'],
    ['retention: {grace: 1 day}', '"1 day" is no duration'],
    ['retention: {schedules: {daily: {keepLast: -1}}}', '-1 is too small'],
    ['retention: {timezone: Berlin}', '"Berlin" is no time zone'],
    ['limits: {maxRate: fast}', '"fast" is no rate'],
    ['objectives: {rpo: 0m}', '"0m" is no duration'],
  ] as const)('BackupPolicy refuses %s', ([field, message]) => {
    const text = `apiVersion: walkeep.io/v1\nkind: BackupPolicy\nmetadata: {name: p}\nspec:\n  clusters: [orders]\n  ${field}\n`;
    const { problems } = loadText(text, { appliedClusters: ['default/orders'] });
    expect(problems.filter(({ severity }) => severity === 'error')).toMatchObject([{ line: 6, message }]);
  });

  it('a cluster has one policy at most', () => {
    const policy = (name: string) =>
      `apiVersion: walkeep.io/v1\nkind: BackupPolicy\nmetadata: {name: ${name}}\nspec: {clusters: [orders]}\n`;
    const { problems } = loadText(`${policy('a')}---\n${policy('b')}`, {
      appliedClusters: ['default/orders'],
    });
    expect(problems.filter(({ severity }) => severity === 'error')).toMatchObject([
      { line: 9, message: 'Cluster "orders" has a policy already: a (a.yaml:1)' },
    ]);
  });

  test.for([
    ['backup: newest', '"newest" chooses no backup'],
    ['backup: ../x', 'chooses no backup'],
    ['target: {targetLSN: zz}', '"zz" is no LSN'],
    ['target: {targetTme: x}', 'there is no such field'],
    ['target: begin', '"begin" is not allowed here'],
    ['checks: {amcheck: half}', '"half" is not allowed here'],
    ['readBudget: 200%', '"200%" is no percentage'],
    ['scratch: {directory: scratch}', 'is no absolute directory'],
    ['checks: {queries: [{sql: select 1, expect: "1"}]}', 'database is missing'],
  ] as const)('ScheduledVerification refuses %s', ([field, message]) => {
    const text = `apiVersion: walkeep.io/v1\nkind: ScheduledVerification\nmetadata: {name: v}\nspec:\n  cluster: {name: orders}\n  schedule: "@weekly"\n  ${field}\n`;
    const { problems } = loadText(text, { appliedClusters: ['default/orders'] });
    expect(problems.filter(({ severity }) => severity === 'error')).toMatchObject([
      { line: 7, message: expect.stringContaining(message) },
    ]);
  });
});
