import { describe, expect, it, test } from 'vitest';
import { clusterWith, loadExamples, loadText, told } from './load-text.ts';

const SOURCE = `externalClusters:
  - name: orders
    barmanObjectStore: {destinationPath: "file:///srv/backups"}`;

function problemsOf(recovery: string, more = '') {
  return loadText(clusterWith(`bootstrap: {recovery: ${recovery}}\n${SOURCE}\n${more}`)).problems.filter(
    ({ severity }) => severity !== 'note',
  );
}

const withTarget = (target: string) => problemsOf(`{source: orders, recoveryTarget: ${target}}`);

describe('bootstrap.recovery', () => {
  it('says from where it recovers, and to which moment', () => {
    const notes = told(loadExamples(['recovery.yaml']), 'note');
    expect(notes).toEqual([
      'recovery.yaml:10: note: spec.bootstrap.recovery: recovers server "orders" in s3://shop-backups/postgres/, to the time 2026-01-21 02:00:00',
    ]);
    expect(
      told(loadText(clusterWith(`bootstrap: {recovery: {source: orders}}\n${SOURCE}`)), 'note')[0],
    ).toContain('to the end of its WAL');
  });

  test.for([
    '{}',
    '{targetTime: "2026-01-21T02:00:00Z"}',
    '{targetTime: "2026-01-21 02:00:00.123456+05:30", exclusive: true}',
    '{targetLSN: 0/3000028, targetTLI: latest}',
    '{targetXID: "4294967295", backupID: 20260121T020000}',
    '{targetName: before-migration, backupID: 20260121T020000, targetTLI: "2"}',
    '{targetImmediate: true, backupID: 20260121T020000}',
    '{backupID: 20260121T020000}',
  ])('takes the target %s', (target) => {
    expect(withTarget(target)).toEqual([]);
  });

  test.for([
    ['{targetTime: "2026-01-21T02:00:00Z", targetLSN: 0/1}', 'targetTime and targetLSN are given'],
    ['{targetName: a}', 'targetName does not say from which backup to begin'],
    ['{targetXID: "1"}', 'targetXID does not say'],
    ['{targetImmediate: true}', 'targetImmediate does not say'],
    ['{targetTime: "2026-02-30 02:00:00Z"}', 'is no time'],
    ['{targetTime: yesterday}', '"yesterday" is no time'],
    ['{targetLSN: "3000028"}', 'is no LSN'],
    ['{targetXID: 0x10, backupID: 20260121T020000}', 'text is expected'],
    ['{targetXID: "4294967296", backupID: 20260121T020000}', 'is no transaction id'],
    ['{targetTLI: "0"}', 'is no timeline'],
    ['{targetTLI: 2}', 'text is expected, found 2'],
    [
      `{targetName: "${'n'.repeat(64)}", backupID: 20260121T020000}`,
      'can not be the name of a restore point',
    ],
    ['{targetName: "a\\tb", backupID: 20260121T020000}', 'can not be the name of a restore point'],
    ['{backupID: ../../etc}', 'is no backup id'],
    ['{backupId: 20260121T020000}', 'there is no such field'],
  ] as const)('refuses the target %s', ([target, message]) => {
    expect(withTarget(target)).toMatchObject([
      { severity: 'error', message: expect.stringContaining(message) },
    ]);
  });

  it('warns that a time without zone is UTC, and that targetImmediate: false is refused by CNPG', () => {
    expect(withTarget('{targetTime: "2026-01-21 02:00:00"}')).toMatchObject([
      { severity: 'warning', message: '"2026-01-21 02:00:00" names no time zone and is taken as UTC' },
    ]);
    expect(withTarget('{targetLSN: 0/1, targetImmediate: false}')).toMatchObject([
      { severity: 'warning', field: 'spec.bootstrap.recovery.recoveryTarget.targetImmediate' },
    ]);
  });

  test.for([
    ['{}', '', 'it does not say from what to recover'],
    ['{source: order}', '', 'no entry of spec.externalClusters is named "order"'],
    ['{source: orders, backup: {name: b}}', '', 'only one can be meant'],
    [
      '{source: orders}',
      'backup: {barmanObjectStore: {destinationPath: "file:///srv/backups/", serverName: orders}}',
      'the very repository it is recovered from',
    ],
    ['{source: orders, volumeSnapshots: {storage: {kind: Pod, name: x}}}', '', '"Pod" is not allowed here'],
    ['{volumeSnapshots: {}}', '', 'storage is missing'],
  ] as const)('refuses %s %s', ([recovery, more, message]) => {
    const errors = problemsOf(recovery, more).filter(({ severity }) => severity === 'error');
    expect(errors).toMatchObject([{ message: expect.stringContaining(message) }]);
  });

  it('refuses two ways to begin', () => {
    const { problems } = loadText(
      clusterWith(`bootstrap: {recovery: {source: orders}, initdb: {}}\n${SOURCE}`),
    );
    expect(told({ documents: [], foreign: [], count: 1, problems }, 'error')[0]).toContain(
      'initdb and recovery are given',
    );
  });

  it('takes snapshots without a backup id, and says that it is not done yet', () => {
    const snapshots =
      '{volumeSnapshots: {storage: {kind: VolumeSnapshot, name: x}}, recoveryTarget: {targetName: a}}';
    expect(problemsOf(snapshots)).toMatchObject([
      { severity: 'warning', message: expect.stringContaining('not done yet') },
    ]);
  });
});

describe('externalClusters', () => {
  test.for([
    ['[{name: a}]', 'has nothing to reach it by'],
    ['[{name: ../a, connectionParameters: {host: h}}]', 'holds a folder "." or ".."'],
    [
      '[{name: a, connectionParameters: {host: h}}, {name: a, connectionParameters: {host: h}}]',
      'is the name of entry 0 too',
    ],
    ['{name: a}', 'a list is expected, found a map'],
    ['[{nam: a, connectionParameters: {host: h}}]', 'there is no such field'],
  ] as const)('%s is refused', ([entries, message]) => {
    const { problems } = loadText(clusterWith(`externalClusters: ${entries}`));
    expect(problems.map((problem) => problem.message)).toContainEqual(expect.stringContaining(message));
    expect(problems.some(({ severity }) => severity === 'error')).toBe(true);
  });
});
