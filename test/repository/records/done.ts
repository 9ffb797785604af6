import { parseLsn } from '../../../core/lsn.ts';
import { parseSegmentName } from '../../../core/segment.ts';
import type { BackupInfo } from '../../../repository/backup-info.ts';

/** A record of a backup that may be restored from. */
export const done: BackupInfo = {
  backupId: '20261122T222531',
  backupName: 'backup-20261122222531',
  status: 'DONE',
  beginTime: new Date('2026-11-22T22:25:31.966Z'),
  endTime: new Date('2026-11-22T22:25:44Z'),
  beginWal: parseSegmentName('000000010000000000000003'),
  endWal: parseSegmentName('000000010000000000000003'),
  beginLsn: parseLsn('0/3000028'),
  endLsn: parseLsn('0/300C0B8'),
  timeline: 1,
  systemId: '7711125222447432971',
  version: 170010,
  segmentSize: 16 * 1024 * 1024,
  tablespaces: [{ name: `Ts B "ü`, oid: 16401, location: '/srv/ts b x' }],
  backupLabel: 'START WAL LOCATION: 0/3000028\n',
  serverName: 'cloud',
  pgdata: '/srv/pg17',
  unknown: {},
};
