# A log is counted, sorted and searched.
cd /tmp/bench || exit 1
mawk '{ n[$1]++; bytes[$1] += $4 } END { for (k in n) print k, n[k], bytes[k] }' log.txt | sort -k2,2nr -k1,1 | head -n 5
cut -d ' ' -f 3 log.txt | sort | uniq -c | sort -rn | head -n 3
grep -c -E 'item/[0-9]*7 .*[02468]$' log.txt
sed -n 's/^\([^ ]*\) GET \(.*\)$/\2 \1/p' log.txt | md5sum
