-- The supplied texts, in Japanese and English. Each is its own part between a greeting and a
-- closing that all of its language share.
with frame (language, text_head, text_foot, html_head, html_foot) as (
    values ('ja',
$${% if member.name %}
{{ member.name }} 様
{% else %}
会員番号 {{ member.member_no }} 様
{% endif %}

いつも{{ program.name }}をご利用いただき、誠にありがとうございます。
$$,
$$
──────────────────────────────
{{ program.name }}
このメールは送信専用のアドレスからお送りしています。ご返信いただいてもお答えできませんので、ご了承ください。
{% if preferences_url %}
お知らせメールの受信設定は、次のページで変更いただけます。
{{ preferences_url }}
{% endif %}
$$,
$$<!DOCTYPE html>
<html lang="ja">
<head><meta charset="utf-8"><title>{{ program.name }}</title></head>
<body style="margin:0;padding:24px;color:#222;font-family:sans-serif;line-height:1.7">
<div style="max-width:560px;margin:0 auto">
<p>
{% if member.name %}
{{ member.name }} 様
{% else %}
会員番号 {{ member.member_no }} 様
{% endif %}
</p>
<p>いつも{{ program.name }}をご利用いただき、誠にありがとうございます。</p>
$$,
$$<hr style="border:0;border-top:1px solid #ccc">
<p style="color:#666;font-size:12px">{{ program.name }}<br>
このメールは送信専用のアドレスからお送りしています。ご返信いただいてもお答えできませんので、ご了承ください。
{% if preferences_url %}
<br><a href="{{ preferences_url }}" style="color:#666">お知らせメールの受信設定を変更する</a>
{% endif %}
</p>
</div>
</body>
</html>
$$),
    ('en',
$${% if member.name %}
Dear {{ member.name }},
{% else %}
Dear member {{ member.member_no }},
{% endif %}

Thank you for being a member of {{ program.name }}.
$$,
$$
--------------------------------------------------
{{ program.name }}
This address only sends mail; replies to it are not read.
{% if preferences_url %}
Choose which mails you receive:
{{ preferences_url }}
{% endif %}
$$,
$$<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{{ program.name }}</title></head>
<body style="margin:0;padding:24px;color:#222;font-family:sans-serif;line-height:1.6">
<div style="max-width:560px;margin:0 auto">
<p>
{% if member.name %}
Dear {{ member.name }},
{% else %}
Dear member {{ member.member_no }},
{% endif %}
</p>
<p>Thank you for being a member of {{ program.name }}.</p>
$$,
$$<hr style="border:0;border-top:1px solid #ccc">
<p style="color:#666;font-size:12px">{{ program.name }}<br>
This address only sends mail; replies to it are not read.
{% if preferences_url %}
<br><a href="{{ preferences_url }}" style="color:#666">Choose which mails you receive</a>
{% endif %}
</p>
</div>
</body>
</html>
$$)
), own (kind, language, subject, text_body, html_body, sms_body) as (
    values
('points_received', 'ja',
$$【{{ program.name }}】{{ points | number }}{{ program.point_name }}を付与いたしました$$,
$$下記のとおり{{ program.point_name }}を付与いたしましたので、お知らせいたします。

{% if reason %}
■ 付与内容: {{ reason }}
{% endif %}
■ 付与数  : {{ points | number }}{{ program.point_name }}
■ 付与日  : {{ granted_on | date }}({{ granted_on | weekday }})
{% if expires_on %}
■ 有効期限: {{ expires_on | date }}({{ expires_on | weekday }})まで
{% else %}
■ 有効期限: なし
{% endif %}
$$,
$$<p>下記のとおり{{ program.point_name }}を付与いたしましたので、お知らせいたします。</p>
<table cellpadding="6" style="border-collapse:collapse">
{% if reason %}
<tr><th align="left">付与内容</th><td>{{ reason }}</td></tr>
{% endif %}
<tr><th align="left">付与数</th><td><strong>{{ points | number }}</strong>{{ program.point_name }}</td></tr>
<tr><th align="left">付与日</th><td>{{ granted_on | date }}({{ granted_on | weekday }})</td></tr>
<tr><th align="left">有効期限</th><td>
{% if expires_on %}
{{ expires_on | date }}({{ expires_on | weekday }})まで
{% else %}
なし
{% endif %}
</td></tr>
</table>
$$,
$$【{{ program.name }}】{{ points | number }}{{ program.point_name }}を付与いたしました。{% if expires_on %}有効期限は{{ expires_on | date }}です。{% endif %}$$),
('points_received', 'en',
$${{ program.name }}: {{ points | number }} {{ program.point_name }} received$$,
$$We are pleased to tell you of what has been added to your account.

{% if reason %}
For:         {{ reason }}
{% endif %}
Received:    {{ points | number }} {{ program.point_name }}
On:          {{ granted_on | date }}
{% if expires_on %}
Valid until: {{ expires_on | date }}
{% else %}
Valid until: no limit
{% endif %}
$$,
$$<p>We are pleased to tell you of what has been added to your account.</p>
<table cellpadding="6" style="border-collapse:collapse">
{% if reason %}
<tr><th align="left">For</th><td>{{ reason }}</td></tr>
{% endif %}
<tr><th align="left">Received</th><td><strong>{{ points | number }}</strong> {{ program.point_name }}</td></tr>
<tr><th align="left">On</th><td>{{ granted_on | date }}</td></tr>
<tr><th align="left">Valid until</th><td>
{% if expires_on %}
{{ expires_on | date }}
{% else %}
no limit
{% endif %}
</td></tr>
</table>
$$,
$${{ program.name }}: {{ points | number }} {{ program.point_name }} received.{% if expires_on %} Valid until {{ expires_on | date }}.{% endif %}$$),
('balance', 'ja',
$$【{{ program.name }}】{{ program.point_name }}残高のお知らせ$$,
$${{ today | date }}({{ today | weekday }})現在の{{ program.point_name }}残高をお知らせいたします。

■ 残高    : {{ points | number }}{{ program.point_name }}
{% if expires_on %}
■ 有効期限: うち{{ expiring_points | number }}{{ program.point_name }}は{{ expires_on | date }}({{ expires_on | weekday }})まで
{% endif %}
$$,
$$<p>{{ today | date }}({{ today | weekday }})現在の{{ program.point_name }}残高をお知らせいたします。</p>
<table cellpadding="6" style="border-collapse:collapse">
<tr><th align="left">残高</th><td><strong>{{ points | number }}</strong>{{ program.point_name }}</td></tr>
{% if expires_on %}
<tr><th align="left">有効期限</th><td>うち{{ expiring_points | number }}{{ program.point_name }}は{{ expires_on | date }}({{ expires_on | weekday }})まで</td></tr>
{% endif %}
</table>
$$,
$$【{{ program.name }}】{{ today | date }}現在の残高は{{ points | number }}{{ program.point_name }}です。{% if expires_on %}うち{{ expiring_points | number }}{{ program.point_name }}は{{ expires_on | date }}まで有効です。{% endif %}$$),
('balance', 'en',
$${{ program.name }}: your {{ program.point_name }} balance$$,
$$This is your balance as of {{ today | date }}.

Balance:     {{ points | number }} {{ program.point_name }}
{% if expires_on %}
Of these:    {{ expiring_points | number }} {{ program.point_name }} valid until {{ expires_on | date }}
{% endif %}
$$,
$$<p>This is your balance as of {{ today | date }}.</p>
<table cellpadding="6" style="border-collapse:collapse">
<tr><th align="left">Balance</th><td><strong>{{ points | number }}</strong> {{ program.point_name }}</td></tr>
{% if expires_on %}
<tr><th align="left">Of these</th><td>{{ expiring_points | number }} {{ program.point_name }} valid until {{ expires_on | date }}</td></tr>
{% endif %}
</table>
$$,
$${{ program.name }}: {{ points | number }} {{ program.point_name }} as of {{ today | date }}.{% if expires_on %} {{ expiring_points | number }} of these valid until {{ expires_on | date }}.{% endif %}$$),
('expiry', 'ja',
$$【{{ program.name }}】{% if days_left == 0 %}本日{% else %}{{ expires_on | date }}に{% endif %}有効期限を迎える{{ program.point_name }}がございます$$,
$${% if days_left == 0 %}
お持ちの{{ program.point_name }}のうち、本日が有効期限のものがございます。
{% else %}
お持ちの{{ program.point_name }}のうち、あと{{ days_left }}日で有効期限を迎えるものがございます。
{% endif %}
期限を過ぎますとご利用いただけなくなりますので、どうぞお早めにご利用ください。

{% for lot in lots %}
■ {{ lot.expires_on | date }}({{ lot.expires_on | weekday }})まで: {{ lot.points | number }}{{ program.point_name }}
{% endfor %}

※{{ today | date }}現在の数です。行き違いでご利用済みの場合は、ご容赦ください。
$$,
$$<p>
{% if days_left == 0 %}
お持ちの{{ program.point_name }}のうち、本日が有効期限のものがございます。
{% else %}
お持ちの{{ program.point_name }}のうち、あと{{ days_left }}日で有効期限を迎えるものがございます。
{% endif %}
期限を過ぎますとご利用いただけなくなりますので、どうぞお早めにご利用ください。</p>
<table cellpadding="6" style="border-collapse:collapse">
{% for lot in lots %}
<tr><th align="left">{{ lot.expires_on | date }}({{ lot.expires_on | weekday }})まで</th><td><strong>{{ lot.points | number }}</strong>{{ program.point_name }}</td></tr>
{% endfor %}
</table>
<p style="font-size:12px">※{{ today | date }}現在の数です。行き違いでご利用済みの場合は、ご容赦ください。</p>
$$,
$$【{{ program.name }}】{{ expiring_points | number }}{{ program.point_name }}の有効期限は{{ expires_on | date }}です。お早めにご利用ください。$$),
('expiry', 'en',
$${{ program.name }}: {{ program.point_name }} {% if days_left == 0 %}expiring today{% else %}expiring on {{ expires_on | date }}{% endif %}$$,
$${% if days_left == 0 %}
Some of what you have expires today.
{% elif days_left == 1 %}
Some of what you have expires tomorrow.
{% else %}
Some of what you have expires in {{ days_left }} days.
{% endif %}
After its last day it can no longer be used.

{% for lot in lots %}
Valid until {{ lot.expires_on | date }}: {{ lot.points | number }} {{ program.point_name }}
{% endfor %}

As of {{ today | date }}; if you have used it meanwhile, please disregard this mail.
$$,
$$<p>
{% if days_left == 0 %}
Some of what you have expires today.
{% elif days_left == 1 %}
Some of what you have expires tomorrow.
{% else %}
Some of what you have expires in {{ days_left }} days.
{% endif %}
After its last day it can no longer be used.</p>
<table cellpadding="6" style="border-collapse:collapse">
{% for lot in lots %}
<tr><th align="left">Valid until {{ lot.expires_on | date }}</th><td><strong>{{ lot.points | number }}</strong> {{ program.point_name }}</td></tr>
{% endfor %}
</table>
<p style="font-size:12px">As of {{ today | date }}; if you have used it meanwhile, please disregard this mail.</p>
$$,
$${{ program.name }}: {{ expiring_points | number }} {{ program.point_name }} valid until {{ expires_on | date }}. Please use them in time.$$),
('order_received', 'ja',
$$【{{ program.name }}】お申し込みを受け付けました(申込番号: {{ order.number }})$$,
$$このたびはお申し込みいただき、ありがとうございます。下記の内容で承りました。

■ 申込番号: {{ order.number }}
■ 商品    : {{ order.item }}
■ 数量    : {{ order.quantity | number }}
■ ご利用数: {{ order.points | number }}{{ program.point_name }}
■ 受付日  : {{ today | date }}({{ today | weekday }})

お心当たりのない場合は、お手数ですがお問い合わせください。
$$,
$$<p>このたびはお申し込みいただき、ありがとうございます。下記の内容で承りました。</p>
<table cellpadding="6" style="border-collapse:collapse">
<tr><th align="left">申込番号</th><td>{{ order.number }}</td></tr>
<tr><th align="left">商品</th><td>{{ order.item }}</td></tr>
<tr><th align="left">数量</th><td>{{ order.quantity | number }}</td></tr>
<tr><th align="left">ご利用数</th><td>{{ order.points | number }}{{ program.point_name }}</td></tr>
<tr><th align="left">受付日</th><td>{{ today | date }}({{ today | weekday }})</td></tr>
</table>
<p>お心当たりのない場合は、お手数ですがお問い合わせください。</p>
$$,
$$【{{ program.name }}】お申し込み(申込番号: {{ order.number }})を受け付けました。$$),
('order_received', 'en',
$${{ program.name }}: order {{ order.number }} received$$,
$$Thank you for your order. We have received it as follows.

Order:       {{ order.number }}
Item:        {{ order.item }}
Quantity:    {{ order.quantity | number }}
Used:        {{ order.points | number }} {{ program.point_name }}
Received on: {{ today | date }}

If you did not place it, please contact us.
$$,
$$<p>Thank you for your order. We have received it as follows.</p>
<table cellpadding="6" style="border-collapse:collapse">
<tr><th align="left">Order</th><td>{{ order.number }}</td></tr>
<tr><th align="left">Item</th><td>{{ order.item }}</td></tr>
<tr><th align="left">Quantity</th><td>{{ order.quantity | number }}</td></tr>
<tr><th align="left">Used</th><td>{{ order.points | number }} {{ program.point_name }}</td></tr>
<tr><th align="left">Received on</th><td>{{ today | date }}</td></tr>
</table>
<p>If you did not place it, please contact us.</p>
$$,
$${{ program.name }}: your order {{ order.number }} has been received.$$)
)
insert into loyalty.notice_template (program_id, kind, language, subject, text_body, html_body, sms_body)
select null, o.kind, o.language, o.subject, f.text_head || o.text_body || f.text_foot,
       f.html_head || o.html_body || f.html_foot, o.sms_body
  from own o
  join frame f on f.language = o.language;
